"""How many bytes a model keeps of a micro batch for the backward pass: allocated, and planned."""

from __future__ import annotations

import gc
from typing import Any, Dict, Optional

import numpy as np

LENGTH, ROWS = 128, 2
SIZES: Dict[str, Any] = dict(
    vocab_size=256,
    hidden_size=128,
    num_hidden_layers=2,
    num_layers=2,
    n_layer=2,
    num_attention_heads=4,
    n_head=4,
    intermediate_size=320,
    inner_hidden_size=320,
    ffn_hidden_size=320,
    max_position_embeddings=256,
    seq_length=256,
    kv_channels=32,
    head_dim=32,
    num_key_value_heads=2,
    kv_lora_rank=32,
    q_lora_rank=48,
    qk_nope_head_dim=32,
    qk_rope_head_dim=16,
    v_head_dim=32,
    moe_intermediate_size=64,
    shared_expert_intermediate_size=96,
    word_embed_proj_dim=64,
)
"""Large enough that what is kept of tokens outweighs what is kept besides."""


def larger(config: Dict[str, Any]) -> Dict[str, Any]:
    """The configuration of a tiny model, with the same things in other sizes."""
    sized = {name: value for name, value in SIZES.items() if config.get(name) is not None}
    if config.get("num_key_value_heads") == config.get("num_attention_heads"):
        sized.pop("num_key_value_heads", None)
    return {**config, **sized}


def micro_batch(family: str) -> Dict[str, Any]:
    """Token ids and labels; for families that read a context and a text, with the tokens that part them."""
    import paddle

    tokens = np.random.RandomState(0).randint(9, 250, (ROWS, LENGTH + 1)).astype(np.int64)
    if "GLM" in family:
        tokens[:, LENGTH // 2], tokens[:, LENGTH // 2 + 1] = 8, 7
    return {"input_ids": paddle.to_tensor(tokens[:, :-1]), "labels": paddle.to_tensor(tokens[:, 1:])}


def measure(family: str, config: Dict[str, Any], changes: Optional[Dict[str, Any]] = None) -> Dict[str, float]:
    """{"allocated": bytes, "planned": bytes} of a forward pass on this rank."""
    import paddle
    from work_layouts import arguments

    import paddlenlp.transformers as transformers
    from paddlenlp.nn import configure_run, program
    from paddlenlp.nn.ahead import set_token_factor
    from paddlenlp.parallel import init_topology

    args = arguments({**(changes or {}), "per_device_train_batch_size": ROWS})
    init_topology(args)
    configure_run(args)
    made = getattr(transformers, f"{family}Config")(**larger(config))
    model = getattr(transformers, f"{family}ForCausalLM").from_config(made, dtype=args.dtype)
    model.train()
    set_token_factor(paddle.ones([]))
    reading = program.read(model, micro_batch(family))
    model.run(reading.ids, reading.batch, labels=reading.labels)  # tables of angles are made
    gc.collect()
    before = _allocated()
    loss = model.run(reading.ids, reading.batch, labels=reading.labels)
    found = {"allocated": float(_allocated() - before), "planned": planned(made, args)}
    del loss
    set_token_factor(None)
    return found


def planned(config: Any, args: Any) -> float:
    from paddlenlp.planning.abstract import abstract_model
    from paddlenlp.planning.layout import Layout
    from paddlenlp.planning.memory import plan_memory

    (rank,) = plan_memory(abstract_model(config), Layout.from_args(args, LENGTH), "cpu")
    return sum(rank.activations.values())


def _allocated() -> int:
    import paddle

    return paddle.base.core.host_memory_stat_current_value("Allocated", 0)


def on_ranks(payload: Dict[str, Any]) -> Dict[str, Any]:
    """Case "layout | model" -> what `measure` gives on this rank."""
    from layouts import MODELS

    found = {}
    for case, changes in payload.items():
        family, config = MODELS[case.split(" | ")[1]]
        found[case] = measure(family, config, changes)
    return found
