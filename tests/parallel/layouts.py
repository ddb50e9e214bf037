"""The two tables of the layout tests: ways to share a model out over processes, and tiny models to share out.

Every combination must train like one process. `CASES` says which are run; one launch of `world` processes runs all its
cases.
"""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Tuple

STEPS, FEWER_STEPS, SAMPLES, LENGTH, VOCAB = 20, 3, 4, 16, 64
"""Steps of a run, of a shorter one, sequences of a global batch, tokens of a sequence, size of the vocabulary."""


class Layout(NamedTuple):
    """Number of processes and the arguments that say how they share the work."""

    world: int
    arguments: Dict[str, Any]


def _layout(world: int, tp: int = 1, pp: int = 1, sharding: int = 1, stage: int = 0, **more: Any) -> Layout:
    degrees = dict(tensor_parallel_degree=tp, pipeline_parallel_degree=pp)
    if stage:
        degrees.update(sharding=f"stage{stage}", sharding_parallel_degree=sharding)
    return Layout(world, {**degrees, **more})


SP: Dict[str, Any] = {"sequence_parallel": True}
FULL: Dict[str, Any] = {"recompute": True, "recompute_granularity": "full"}

LAYOUTS: Dict[str, Layout] = {
    "dp2": _layout(2),
    "tp2": _layout(2, tp=2),
    "tp2+sp": _layout(2, tp=2, **SP),
    "pp2": _layout(2, pp=2),
    "pp2vpp2": _layout(2, pp=2, virtual_pp_degree=2),
    "sharding2 stage1": _layout(2, sharding=2, stage=1),
    "sharding2 stage2": _layout(2, sharding=2, stage=2),
    "sharding2 stage3": _layout(2, sharding=2, stage=3),
    "sep2": _layout(2, sep_parallel_degree=2),
    "cp2": _layout(2, context_parallel_degree=2),
    "ep2": _layout(2, use_expert_parallel=True),
    "ep2 sharding2 stage1": _layout(2, sharding=2, stage=1, expert_parallel_degree=2),
    "tp2+sp recompute": _layout(2, tp=2, **SP, **FULL),
    "pp2 recompute": _layout(2, pp=2, **FULL),
    "sharding2 stage3 recompute": _layout(2, sharding=2, stage=3, **FULL),
    "dp4": _layout(4),
    "tp4": _layout(4, tp=4),
    "tp4+sp": _layout(4, tp=4, **SP),
    "pp4": _layout(4, pp=4),
    "sharding4 stage1": _layout(4, sharding=4, stage=1),
    "sharding4 stage2": _layout(4, sharding=4, stage=2),
    "sharding4 stage3": _layout(4, sharding=4, stage=3),
    "dp2 sharding2 stage1": _layout(4, sharding=2, stage=1),
    "dp2 sharding2 stage2": _layout(4, sharding=2, stage=2),
    "dp2 sharding2 stage3": _layout(4, sharding=2, stage=3),
    "tp2 sharding2 stage1": _layout(4, tp=2, sharding=2, stage=1),
    "tp2 sharding2 stage2": _layout(4, tp=2, sharding=2, stage=2),
    "tp2+sp sharding2 stage3": _layout(4, tp=2, sharding=2, stage=3, **SP),
    "pp2 sharding2 stage1": _layout(4, pp=2, sharding=2, stage=1),
    "pp2 sharding2 stage2": _layout(4, pp=2, sharding=2, stage=2),
    "pp2 sharding2 stage3": _layout(4, pp=2, sharding=2, stage=3),
    "tp2pp2": _layout(4, tp=2, pp=2),
    "tp2pp2+sp": _layout(4, tp=2, pp=2, **SP),
    "tp2pp2+sp recompute": _layout(4, tp=2, pp=2, **SP, **FULL),
    "ep2tp2": _layout(4, tp=2, use_expert_parallel=True),
    "ep2tp2+sp sharding2 stage2": _layout(4, tp=2, sharding=2, stage=2, expert_parallel_degree=2, **SP),
    "tp2 sep2": _layout(4, tp=2, sep_parallel_degree=2),
    "tp2+sp cp2": _layout(4, tp=2, context_parallel_degree=2, **SP),
    "pp2 cp2": _layout(4, pp=2, context_parallel_degree=2),
    "tp2pp2 sharding2 stage1": _layout(8, tp=2, pp=2, sharding=2, stage=1),
    "tp2pp2+sp sharding2 stage2, sharding first": _layout(
        8, tp=2, pp=2, sharding=2, stage=2, hybrid_parallel_topo_order="sharding_first", **SP
    ),
    "tp2pp2 sharding2 stage3": _layout(8, tp=2, pp=2, sharding=2, stage=3),
    "dp2tp2pp2+sp sharding2 stage1": _layout(16, tp=2, pp=2, sharding=2, stage=1, **SP),
}
"""Name -> layout."""


class Model(NamedTuple):
    """A class of `paddlenlp.transformers` and its configuration."""

    name: str
    config: Dict[str, Any]


_SIZES = dict(
    vocab_size=VOCAB,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=4,
    num_attention_heads=4,
    max_position_embeddings=64,
)

MODELS: Dict[str, Model] = {
    "grouped heads": Model("Llama", dict(_SIZES, num_key_value_heads=2)),
    "tied": Model("Llama", dict(_SIZES, num_key_value_heads=4, tie_word_embeddings=True)),
    "biases, fused": Model(
        "Llama",
        dict(
            _SIZES,
            num_key_value_heads=2,
            attention_bias=True,
            mlp_bias=True,
            fuse_attention_qkv=True,
            fuse_attention_ffn=True,
        ),
    ),
    "experts": Model("Mixtral", dict(_SIZES, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2)),
    "latent attention, experts": Model(
        "DeepseekV2",
        dict(
            _SIZES,
            num_key_value_heads=4,
            q_lora_rank=None,
            kv_lora_rank=16,
            qk_nope_head_dim=8,
            qk_rope_head_dim=4,
            v_head_dim=8,
            n_routed_experts=4,
            num_experts_per_tok=2,
            n_shared_experts=1,
            moe_intermediate_size=16,
            first_k_dense_replace=1,
            aux_loss_alpha=0.01,
        ),
    ),
}
"""Name -> model."""

EXPERT_MODELS = ("experts", "latent attention, experts")
"""The models that have experts to deal out."""


def models_of(layout: str) -> List[str]:
    """The models that `layout` is run with."""
    return list(EXPERT_MODELS) if layout.startswith("ep") else list(MODELS)


def steps_of(model: str) -> int:
    """How long a case runs: all but one model run shorter, to save time."""
    return STEPS if model == "grouped heads" else FEWER_STEPS


def cases(world: int) -> List[Tuple[str, str]]:
    """(layout, model) of every case that takes `world` processes."""
    return [(name, model) for name, layout in LAYOUTS.items() if layout.world == world for model in models_of(name)]


LOW_PRECISION: Dict[str, Any] = {"bf16": True, "fp16_opt_level": "O2", "amp_master_grad": True}
LOW_PRECISION_LAYOUTS = (
    "dp2",
    "tp2",
    "tp2+sp",
    "pp2",
    "sharding2 stage1",
    "sharding2 stage2",
    "sharding2 stage3",
    "sep2",
    "cp2",
)
"""The layouts that are also run in bf16, with low-precision parameters and float32 masters."""
