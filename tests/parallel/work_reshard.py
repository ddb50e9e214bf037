"""One of eight ranks that write a checkpoint in every layout of the matrix and read each of them in every layout.

A layout of fewer ranks is run by the first ones; the others wait for the next.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import numpy as np
from layouts import LAYOUTS, LOW_PRECISION, Layout
from work_layouts import Run, micro_batches

WORLD = 8
RANK = int(os.environ.get("PADDLE_TRAINER_ID", "0"))
SAVED = 1
"""Steps before the checkpoint."""

MATRIX: Dict[str, Layout] = {
    "one": Layout(1, {}),
    **{
        name: LAYOUTS[name]
        for name in (
            "dp4",
            "tp2",
            "pp2",
            "tp2pp2",
            "sharding2 stage1",
            "sharding2 stage2",
            "sharding2 stage3",
            "dp2 sharding2 stage1",
            "tp2pp2 sharding2 stage1",
            "ep2",
            "pp2vpp2",
        )
    },
}
"""The layouts, each of which reads the checkpoints of all."""

UNMERGED = ("one", "dp4", "tp2", "sharding2 stage3", "tp2pp2 sharding2 stage1", "ep2")
"""The layouts that also save their optimizer as it is (`ignore_merge_optimizer`), for each other to read."""

PRECISIONS: Dict[str, Dict[str, Any]] = {"float32": {}, "bfloat16": LOW_PRECISION}

MODEL: Tuple[str, Dict[str, Any]] = (
    "Mixtral",
    dict(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=2,
        num_experts_per_tok=1,
        max_position_embeddings=64,
    ),
)
"""Class and configuration; it has experts, so that all layouts can share it out."""


def matrix(payload: Dict[str, Any]) -> Dict[str, Any]:
    """For each precision of `precisions`: what writing ("written") and reading ("read", source -> target) found.

    `steps` are trained after the checkpoint, in a cell of the matrix if `losses` names it ("source > target") or is
    "all".
    """
    os.fsync = lambda descriptor: None  # nobody takes the power away, and syncing is what takes time
    found: Dict[str, Any] = {}
    for precision in payload["precisions"]:
        root = Path(payload["folder"]) / precision
        found[precision] = {
            "written": {name: _do(name, precision, root, lambda run: _write(run, payload["steps"])) for name in MATRIX},
            "read": {name: _do(name, precision, root, lambda run: _read_all(run, payload)) for name in MATRIX},
        }
    root = Path(payload["folder"])
    if "bfloat16" in payload["precisions"]:
        found["unmerged"] = {name: _do(name, "bfloat16", root / "apart", _save_apart) for name in UNMERGED}
        found["from unmerged"] = {name: _do(name, "bfloat16", root / "apart", _read_apart) for name in UNMERGED}
    if "float32" in payload["precisions"]:
        found["verified"] = _do("tp2pp2", "float32", root / "float32", _verify_together)
    return found


def _do(name: str, precision: str, root: Path, action: Callable[[Run], Any]) -> Any:
    """What `action` gives on this rank in this layout; None where the layout has no such rank."""
    found, layout = None, MATRIX[name]
    if layout.world > RANK:
        os.environ["PADDLE_TRAINERS_NUM"] = str(layout.world)
        changes = {**layout.arguments, **PRECISIONS[precision], "output_dir": str(root / name)}
        found = action(Run(changes, *MODEL))
        os.environ["PADDLE_TRAINERS_NUM"] = str(WORLD)
    _all_ranks().barrier()
    return found


@cache
def _all_ranks() -> Any:
    from paddlenlp.parallel.socket_group import SocketGroup

    return SocketGroup("pause", range(WORLD), RANK)


def _write(run: Run, steps: int) -> Dict[str, Any]:
    """Some steps, a checkpoint, and the losses of the next steps."""
    from paddlenlp.trainer.keeper import CheckpointKeeper
    from paddlenlp.trainer.state import TrainerState

    run.train(SAVED)
    keeper = CheckpointKeeper(run.model, None, run.args, [])
    state = TrainerState(global_step=SAVED, consumed_samples=SAVED * 4, epoch=0.25)
    folder = keeper.save(state, run.optimizer, run.step.lr_scheduler, None)
    place = [run.optimizer.lr, run.step.lr_scheduler.last_epoch]
    return {"differing": _differing(run, folder), "schedule": place, "losses": _losses(run, steps)}


def _merged(run: Run) -> Path:
    """A checkpoint of whole tensors, in bfloat16."""
    return Path(run.args.output_dir).parent.parent / "bfloat16" / "one" / f"checkpoint-{SAVED}"


def _save_apart(run: Run) -> List[str]:
    """Save what a checkpoint of whole tensors holds, the optimizer as it is."""
    from dataclasses import replace

    from paddlenlp.trainer.keeper import CheckpointKeeper
    from paddlenlp.trainer.state import TrainerState

    _load(run, _merged(run))
    args = replace(run.args, unified_checkpoint_config="ignore_merge_optimizer")
    keeper = CheckpointKeeper(run.model, None, args, [])
    folder = keeper.save(TrainerState(global_step=SAVED), run.optimizer, run.step.lr_scheduler, None)
    return sorted(path.name for path in folder.glob("[om]*.safetensors") if "model" not in path.name)


def _read_apart(run: Run) -> Dict[str, Any]:
    found = {}
    for source in UNMERGED:
        _spoil(run)
        read = _load(run, Path(run.args.output_dir).parent / source / f"checkpoint-{SAVED}")
        found[source] = {"bytes": read, "needed": _needed(run), "differing": _differing(run, _merged(run))}
    return found


def _load(run: Run, folder: Path) -> int:
    """Bytes read."""
    from paddlenlp.trainer import restore
    from paddlenlp.utils.reading import bytes_read

    before = bytes_read.total
    restore.load_model(run.model, folder)
    restore.load_optimizer(run.model, run.optimizer, run.step.lr_scheduler, folder, run.args)
    return bytes_read.total - before


def _losses(run: Run, steps: int) -> List[float]:
    return [run.step.run(SAVED + n, micro_batches(SAVED + n, run.args)).loss for n in range(1, steps + 1)]


def _read_all(run: Run, payload: Dict[str, Any]) -> Dict[str, Any]:
    return {source: _read(run, source, payload) for source in MATRIX}


def _read(run: Run, source: str, payload: Dict[str, Any]) -> Dict[str, Any]:
    """What this rank has after reading the checkpoint of `source`; before, nothing is as the files say."""
    from paddlenlp.trainer import restore
    from paddlenlp.trainer.state import TrainerState

    folder = Path(run.args.output_dir).parent / source / f"checkpoint-{SAVED}"
    _spoil(run)
    found: Dict[str, Any] = {"bytes": _load(run, folder), "needed": _needed(run)}
    state = restore.load_state(folder, TrainerState())
    found["differing"] = _differing(run, folder)
    found["state"] = [state.global_step, state.consumed_samples, state.epoch]
    found["schedule"] = [run.optimizer.lr, run.step.lr_scheduler.last_epoch]
    cells, target = payload["losses"], Path(run.args.output_dir).name
    if cells == "all" or f"{source} > {target}" in cells:
        found["losses"] = _losses(run, payload["steps"])
    return found


def _spoil(run: Run) -> None:
    """Make weights, masters and moments something that no checkpoint holds."""
    import paddle

    with paddle.no_grad():
        for piece in run.optimizer.pieces:
            for tensor in (piece.weight, *run.optimizer.states(piece).values()):
                tensor.scale_(3.0)
        run.optimizer.publish()


def _needed(run: Run) -> int:
    """Bytes of what this rank holds: its parameters, its pieces of masters and moments, and powers."""
    words = [2 + bool(piece.master) for piece in run.optimizer.pieces]
    pieces = sum(4 * (piece.stop - piece.start) * n + 8 for piece, n in zip(run.optimizer.pieces, words))
    return pieces + sum(param.size * param.element_size() for param in run.model.parameters())


def _differing(run: Run, folder: Path) -> List[str]:
    """What of this rank's weights, masters and moments is not, to the bit, its share of what the files hold."""
    from paddlenlp.parallel.holdings import at_hand

    files, params, found = _tensors(folder), dict(run.model.named_parameters()), []
    for names in at_hand(run.model):
        found += [name for name in names if not _same(params[name], _share(params[name], files["model"][name]))]
    for piece in run.optimizer.pieces:
        own = {f"{piece.name}/{key}": value for key, value in run.optimizer.states(piece).items()}
        wholes = {name: files["optimizer"][name] for name in own}
        if piece.master:
            own["master"], wholes["master"] = piece.weight, files["master_weights"][piece.name]
        for name, value in own.items():
            whole = wholes[name]
            share = whole if whole.size == 1 else _share(piece.param, whole).reshape(-1)[piece.start : piece.stop]
            found += [] if _same(value, share) else [f"{piece.name} {name}"]
    return found


def _share(param: Any, whole: np.ndarray) -> np.ndarray:
    from paddlenlp.parallel import topology

    return param.tp_layout.cut(whole, topology().tp.rank, topology().tp.size)


def _same(own: Any, stored: np.ndarray) -> bool:
    return own.numpy().tobytes() == np.ascontiguousarray(stored).tobytes()


def _verify_together(run: Run) -> Dict[str, Any]:
    """Find the checkpoint to go on from where the newest one is damaged: which files this rank hashed, and what it
    said."""
    import shutil

    from paddlenlp.checkpoint import manifest
    from paddlenlp.parallel import topology
    from paddlenlp.trainer import restore
    from paddlenlp.utils.log import logger

    folder = Path(run.args.output_dir)
    if RANK == 0:
        shutil.copytree(folder / f"checkpoint-{SAVED}", folder / "checkpoint-3")
        text = (folder / "checkpoint-3" / "manifest.json").read_text()
        (folder / "checkpoint-3" / "manifest.json").write_text(text.replace('"step": 1', '"step": 3'))
        damaged = sorted((folder / "checkpoint-3").glob("optimizer-*.safetensors"))[-1]
        content = bytearray(damaged.read_bytes())
        content[-1] ^= 1
        damaged.write_bytes(content)
    topology().world.group.barrier()
    hashed, said, hash_of = [], [], manifest.sha256_file
    manifest.sha256_file = lambda path: hashed.append(f"{path.parent.name}/{path.name}") or hash_of(path)
    logger.warning = lambda text: said.append(text)
    found = restore.find_resume(run.args, None)
    manifest.sha256_file = hash_of
    del logger.warning
    topology().world.group.barrier()
    left = sorted(path.name for path in folder.iterdir() if path.name.startswith("checkpoint"))
    return {"hashed": hashed, "said": said, "found": found.name, "left": left}


@cache
def _tensors(folder: Path) -> Dict[str, Dict[str, np.ndarray]]:
    """All tensors of a checkpoint, read by no code of the toolkit."""
    import json

    found: Dict[str, Dict[str, np.ndarray]] = {}
    for path in folder.glob("*.safetensors"):
        content = path.read_bytes()
        size = int.from_bytes(content[:8], "little")
        for name, info in json.loads(content[8 : 8 + size]).items():
            if name != "__metadata__":
                start, stop = (8 + size + offset for offset in info["data_offsets"])
                kind = {"F32": np.float32, "BF16": np.uint16}[info["dtype"]]
                array = np.frombuffer(content[start:stop], kind).reshape(info["shape"])
                found.setdefault(path.name.partition("-")[0], {})[name] = array
    return found
