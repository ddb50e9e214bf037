"""One of four ranks that save checkpoints in many layouts and go on from those of other layouts.

A layout of fewer ranks is run by the first ones; the others wait for the next.
"""

from __future__ import annotations

import os
from functools import cache, partial
from pathlib import Path
from typing import Any, Callable, Dict, Tuple

from layouts import LAYOUTS, Layout
from work_layouts import Run, micro_batches

WORLD = 4
RANK = int(os.environ.get("PADDLE_TRAINER_ID", "0"))
ONE = Layout(1, {})

_SIZES = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_attention_heads=4, max_position_embeddings=64)
_FUSED = dict(fuse_attention_qkv=True, fuse_attention_ffn=True, attention_bias=True, mlp_bias=True)

_LATENT = dict(
    q_lora_rank=None,
    kv_lora_rank=16,
    qk_nope_head_dim=8,
    qk_rope_head_dim=4,
    v_head_dim=8,
    n_routed_experts=4,
    num_experts_per_tok=2,
    n_group=1,
    topk_group=1,
    moe_intermediate_size=16,
    first_k_dense_replace=1,
)

MODELS: Dict[str, Tuple[str, Dict[str, Any], Dict[str, Any]]] = {
    "tied, one key head": (
        "Llama",
        dict(_SIZES, num_hidden_layers=4, num_key_value_heads=1, tie_word_embeddings=True),
        {},
    ),
    "fused, bfloat16": (
        "Llama",
        dict(_SIZES, num_hidden_layers=2, num_key_value_heads=1, **_FUSED),
        dict(bf16=True, fp16_opt_level="O2", amp_master_grad=True),
    ),
    "fused, grouped heads": ("Llama", dict(_SIZES, num_hidden_layers=2, num_key_value_heads=2, **_FUSED), {}),
    "experts": (
        "Mixtral",
        dict(_SIZES, num_hidden_layers=2, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2),
        {},
    ),
    "biases, a layer ahead": (
        "DeepseekV3",
        dict(_SIZES, num_hidden_layers=2, bias_update_speed=0.01, num_nextn_predict_lambda=0.3, **_LATENT),
        {},
    ),
}
"""Name -> class, configuration, and arguments of the run."""

CASES: Dict[str, Tuple[str, ...]] = {
    "tied, one key head": (
        "dp2",
        "tp2",
        "tp2+sp",
        "pp2",
        "pp2vpp2",
        "sharding2 stage1",
        "sharding2 stage2",
        "sharding2 stage3",
        "tp2pp2",
        "tp2 sharding2 stage1",
        "pp2 sharding2 stage3",
    ),
    "fused, bfloat16": ("tp2", "pp2", "sharding2 stage1", "sharding2 stage3", "tp2 sharding2 stage1"),
    "fused, grouped heads": ("tp2", "sharding2 stage3", "tp2pp2"),
    "experts": ("tp2", "ep2", "ep2 sharding2 stage1", "ep2tp2"),
    "biases, a layer ahead": ("tp2+sp", "pp2", "pp2 sharding2 stage3"),
}
"""Model -> its layouts. Each goes on from a checkpoint of one process; the next, and one process, from its own."""


def everything(payload: Dict[str, Any]) -> Dict[str, Any]:
    os.fsync = lambda descriptor: None  # nobody takes the power away, and syncing is what takes time
    root = Path(payload["folder"])
    found: Dict[str, Any] = {name: _one_model(root / name, name) for name in MODELS}
    tied, fused = (root / name / "one" for name in ("tied, one key head", "fused, bfloat16"))
    found["writing fails"] = _do(LAYOUTS["tp2"], "tied, one key head", root / "failed", _fail_to_write)
    found["reading fails"] = _do(LAYOUTS["pp2"], "tied, one key head", root / "odd", lambda run: _misread(run, tied))
    for layout in ("tp2", "sharding2 stage3"):
        _do(LAYOUTS[layout], "fused, bfloat16", root / "best" / layout, lambda run: _best(run, fused))
    found["another layout"] = _do(LAYOUTS["tp2"], "fused, bfloat16", root / "rng", lambda run: _random(run, fused))
    return found


def _one_model(root: Path, name: str) -> Dict[str, Any]:
    """Loss of the third step in each layout; the folders are compared by the test."""
    layouts = CASES[name]
    found = {"one": _do(ONE, name, root / "one", _begin)}
    for layout in layouts:
        found[layout] = _do(LAYOUTS[layout], name, root / layout, lambda run: _go_on(run, root / "one"))
    for layout, following in zip(layouts, [*layouts[1:], layouts[0]]):
        copy = partial(_copy, folder=root / layout / "checkpoint-3")
        _do(LAYOUTS[following], name, root / f"{layout} to next", copy)
        _do(ONE, name, root / f"{layout} to one", copy)
    return found


def _do(layout: Layout, name: str, output: Path, action: Callable[[Run], Any]) -> Any:
    """What `action` gives on this rank for the model in this layout; None where the layout has no such rank."""
    found = None
    if layout.world > RANK:
        os.environ["PADDLE_TRAINERS_NUM"] = str(layout.world)
        family, config, more = MODELS[name]
        found = action(Run({**layout.arguments, **more, "output_dir": str(output)}, family, config))
        os.environ["PADDLE_TRAINERS_NUM"] = str(WORLD)
    _all_ranks().barrier()
    return found


@cache
def _all_ranks() -> Any:
    from paddlenlp.parallel.socket_group import SocketGroup

    return SocketGroup("pause", range(WORLD), RANK)


def _save(run: Run, step: int) -> Any:
    from paddlenlp.trainer.keeper import CheckpointKeeper
    from paddlenlp.trainer.state import TrainerState

    keeper = CheckpointKeeper(run.model, None, run.args, [])
    return keeper.save(TrainerState(global_step=step), run.optimizer, run.step.lr_scheduler, None)


def _load(run: Run, folder: Path) -> None:
    from paddlenlp.trainer import restore

    restore.seen_by_all(folder)
    restore.load_model(run.model, folder)
    restore.load_optimizer(run.model, run.optimizer, run.step.lr_scheduler, folder, run.args)


def _step(run: Run, number: int) -> float:
    return run.step.run(number, micro_batches(number, run.args)).loss


def _begin(run: Run) -> float:
    """Two steps, a checkpoint, a third step, another one; and the weights alone in both formats."""
    run.train(2)
    _save(run, 2)
    _export(run)
    loss = _step(run, 3)
    _save(run, 3)
    return loss


def _go_on(run: Run, one: Path) -> float:
    """The checkpoint and the weights of one process, saved again as they are; the third step, and a checkpoint."""
    _copy(run, one / "checkpoint-2")
    _export(run)
    output = Path(run.args.output_dir)
    for form in ("hf", "native"):
        type(run.model).from_pretrained(one / form, config=run.model.config).save_pretrained(output / f"from {form}")
    loss = _step(run, 3)
    _save(run, 3)
    return loss


def _copy(run: Run, folder: Path) -> None:
    _load(run, folder)
    _save(run, int(folder.name.rpartition("-")[2]))


def _export(run: Run) -> None:
    output = Path(run.args.output_dir)
    run.model.save_pretrained(output / "native", max_shard_size="8KB")
    run.model.save_pretrained(output / "hf", max_shard_size="16KB", save_to_hf=True)


def _outcome(action: Callable[[], Any]) -> str:
    from paddlenlp.utils.errors import UsageError

    try:
        return f"no error: {action()}"
    except UsageError as error:
        return str(error)


def _fail_to_write(run: Run) -> Dict[str, Any]:
    """Rank 0's disk is full in the middle of a tensor file, or too small from the start; then it has room."""
    from paddlenlp.checkpoint import space
    from paddlenlp.trainer.keeper import CheckpointKeeper
    from paddlenlp.utils import tensor_writer

    keeper, write, free = CheckpointKeeper(run.model, None, run.args, []), tensor_writer._write, space.free_bytes
    written = []

    def full(file: Any, data: Any, digest: Any) -> None:
        written.append(len(data))
        if len(written) == 5:
            raise OSError(28, "No space left on device")
        write(file, data, digest)

    run.train(1)
    tensor_writer._write = full
    found: Dict[str, Any] = {"full": _outcome(lambda: _save(run, 1))}
    found["left"] = sorted(path.name for path in Path(run.args.output_dir).iterdir())
    tensor_writer._write, written[:] = write, []
    found["export"] = _outcome(lambda: run.model.save_pretrained(Path(__file__) / "model"))
    space.free_bytes = lambda path: 1000
    found["small"] = _outcome(lambda: keeper.check_space(run.optimizer))
    space.free_bytes = free
    keeper.check_space(run.optimizer)
    found["then"] = Path(_save(run, 1)).name
    return found


def _misread(run: Run, one: Path) -> Dict[str, Any]:
    """A folder that only rank 0 sees, tensors too many, and tensors too few, each known to one stage only."""
    from paddlenlp.parallel import topology
    from paddlenlp.trainer import restore
    from paddlenlp.transformers.conversion_utils import load_weights
    from paddlenlp.utils.tensor_files import TensorFiles, write_shards

    output = Path(run.args.output_dir)
    stored = dict(TensorFiles(one / "native"))
    shown = [name for name in stored if "layers.0.mlp.up_proj" in name or "layers.3.mlp.up_proj" in name]
    if RANK == 0:
        for folder in ("more", "fewer"):
            (output / folder).mkdir(parents=True)
        write_shards(output / "more", "model", {**stored, "llama.layers.4.mlp.up_proj.weight": stored[shown[0]]})
        write_shards(output / "fewer", "model", {name: x for name, x in stored.items() if name not in shown})
    topology().world.group.barrier()
    before = [param.numpy().copy() for param in run.model.parameters()]
    other = one / ("checkpoint-2" if RANK == 0 else "checkpoint-3")
    found = {
        "unseen": _outcome(lambda: restore.seen_by_all(one / "checkpoint-2" if RANK == 0 else one / "nowhere")),
        "other": _outcome(lambda: restore.seen_by_all(other)),
        "open": _outcome(lambda: type(run.model).from_pretrained(one / ("native" if RANK == 0 else "nowhere"))),
        "more": _outcome(lambda: load_weights(run.model, output / "more")),
        "fewer": _outcome(lambda: load_weights(run.model, output / "fewer")),
    }
    found["unchanged"] = all((old == new.numpy()).all() for old, new in zip(before, run.model.parameters()))
    return found


def _best(run: Run, one: Path) -> None:
    """After a third step the weights of the second are the best."""
    from types import SimpleNamespace

    from paddlenlp.trainer.keeper import CheckpointKeeper
    from paddlenlp.trainer.state import TrainerState

    _load(run, one / "checkpoint-3")
    args = SimpleNamespace(
        output_dir=one,
        effective_load_best_model_at_end=True,
        effective_metric_for_best_model="loss",
        save_failure_policy="stop",
    )
    keeper = CheckpointKeeper(run.model, None, args, [])
    assert keeper.load_best(TrainerState(best_model_checkpoint="moved/checkpoint-2", best_metric=1.0))
    keeper.save_model(Path(run.args.output_dir))


def _random(run: Run, one: Path) -> Dict[str, Any]:
    """Random states of one process are of no use to two; those that the two saved are."""
    import paddle

    from paddlenlp.trainer import restore
    from paddlenlp.utils.log import logger

    warnings, logger.warning = [], lambda text: warnings.append(text)
    paddle.seed(100 + RANK)
    restore.load_rng(one / "checkpoint-2", RANK)
    saved = _save(run, 1)
    drawn = paddle.rand([3]).tolist()
    restore.load_rng(saved, RANK)
    del logger.warning
    return {"warnings": warnings, "drawn": drawn, "again": paddle.rand([3]).tolist()}
