"""One of four ranks that save checkpoints: in several files, in small blocks, beside the training, and in vain."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Callable, Dict, List

import numpy as np
from layouts import LAYOUTS
from work_checkpoint import RANK, _do, _load, _outcome
from work_layouts import Run, micro_batches

MODEL = "fused, bfloat16"
"""Of `work_checkpoint`."""
FILED = ("tp2pp2", "tp2 sharding2 stage1", "sharding2 stage3", "dp4", "pp2 sharding2 stage3")
"""Layouts whose files are counted."""

APART = ("tp2pp2", "tp2 sharding2 stage1", "sharding2 stage3", "dp4", "ep2")
"""Layouts that save their parts as they are."""


def everything(payload: Dict[str, Any]) -> Dict[str, Any]:
    os.fsync = lambda descriptor: None  # nobody takes the power away, and syncing is what takes time
    root = Path(payload["folder"])
    found: Dict[str, Any] = {"files": {}, "apart": {}}
    for layout in FILED:
        found["files"][layout] = _in(layout, root / "files" / layout, _count)
    for layout in APART:
        found["apart"][layout] = _in(layout, root / "apart" / layout, _apart, words="ignore_merge_optimizer")
    found["small blocks"] = _in("tp2 sharding2 stage1", root / "small", _small_blocks)
    found["second fails"] = _in("tp2", root / "failed", _second_fails)
    beside = "tp2 sharding2 stage1"
    found["beside"] = _in(beside, root / "beside", _beside, words="async_save")
    found["beside fails"] = _in("pp2", root / "beside fails", _beside_fails, words="async_save")
    found["beside fails, goes on"] = _in(
        "dp2", root / "goes on", _beside_fails_and_goes_on, words="async_save", save_failure_policy="continue"
    )
    return found


def _in(layout: str, output: Path, action: Callable[[Run], Any], words: str = "", **more: Any) -> Any:
    chosen = LAYOUTS[layout]
    arguments = {**chosen.arguments, "unified_checkpoint_config": words, **more}
    return _do(chosen._replace(arguments=arguments), "experts" if layout == "ep2" else MODEL, output, action)


class Saving:
    """A run with its keeper."""

    def __init__(self, run: Run) -> None:
        from paddlenlp.trainer.keeper import CheckpointKeeper
        from paddlenlp.trainer.state import TrainerState

        self.run, self.state = run, TrainerState()
        self.keeper = CheckpointKeeper(run.model, None, run.args, [])
        self.heard: List[str] = []
        self.keeper.listener = lambda folder: self.heard.append(folder.name)

    def step(self, number: int) -> float:
        self.state.global_step = number
        return self.run.step.run(number, micro_batches(number, self.run.args)).loss

    def save(self, number: int = 0) -> Any:
        self.state.global_step = number or self.state.global_step
        return self.keeper.save(self.state, self.run.optimizer, self.run.step.lr_scheduler, None)


def _count(run: Run) -> List[str]:
    """The names of the files that this rank wrote."""
    from paddlenlp.checkpoint import shards

    saving, written, stream = Saving(run), [], shards.TensorStream

    def noting(path: Path, *rest: Any, **options: Any) -> Any:
        written.append(path.name)
        return stream(path, *rest, **options)

    saving.step(1)
    shards.TensorStream = noting
    saving.save()
    shards.TensorStream = stream
    return written


def _apart(run: Run) -> None:
    """Parts as they are; and, of the same run, joined; and what one gets who loads the parts and saves them joined."""
    saving = Saving(run)
    saving.step(1)
    saving.save()
    words = run.args.unified_checkpoint_config
    run.args.unified_checkpoint_config = ""
    Saving(run).save(2)
    saving.step(2)
    _load(run, Path(run.args.output_dir) / "checkpoint-1")
    Saving(run).save(3)
    run.args.unified_checkpoint_config = words


def _small_blocks(run: Run) -> int:
    """The most bytes that this rank passed on at a time."""
    from paddlenlp.checkpoint.shards import _Sink
    from paddlenlp.parallel import dealing

    saving, sizes, take, most = Saving(run), [], _Sink.take, dealing.BLOCK
    saving.step(1)
    saving.save(1)
    dealing.BLOCK = 256
    _Sink.take = lambda sink, number, data: sizes.append(len(data)) or take(sink, number, data)
    Saving(run).save(2)
    dealing.BLOCK, _Sink.take = most, take
    return max(sizes)


def _failing(saving: Saving, rank: int) -> Callable[[], None]:
    """Have the disk of `rank` full from the fifth write on; what ends that."""
    from paddlenlp.utils import tensor_writer

    write, written = tensor_writer._write, []

    def full(file: Any, data: Any, digest: Any) -> None:
        written.append(len(data))
        if len(written) >= 5:
            raise OSError(28, "No space left on device")
        write(file, data, digest)

    def mended() -> None:
        tensor_writer._write = write

    if rank == RANK:
        tensor_writer._write = full
    return mended


def _second_fails(run: Run) -> Dict[str, Any]:
    saving = Saving(run)
    saving.step(1)
    mended = _failing(saving, 1)
    found = {"error": _outcome(saving.save), "left": _left(run)}
    mended()
    found["then"] = str(saving.save())
    found["heard"] = saving.heard
    return found


def _left(run: Run) -> List[str]:
    return sorted(path.name for path in Path(run.args.output_dir).iterdir() if path.name != ".run.lock")


def _beside(run: Run) -> Dict[str, Any]:
    """Training goes on while a checkpoint is written, which holds what there was when that began."""
    import threading

    saving = Saving(run)
    held = threading.Event()
    saver = saving.keeper.saver
    write, saver._write = saver._write, lambda job, parts: held.wait(60) and write(job, parts)
    losses = [saving.step(1)]
    found: Dict[str, Any] = {"at once": saving.save(), "holds": saving.keeper.holds(1)}
    losses += [saving.step(2), saving.step(3)]
    found["looked"] = [str(saving.keeper.look()), Path(run.args.output_dir).exists(), saving.keeper.last]
    held.set()
    while saving.keeper.look() is None:
        losses.append(saving.step(saving.state.global_step + 1))
    found["heard"] = list(saving.heard)
    found["again"] = saving.save()
    found["then"] = [saving.keeper.finish().name, saving.keeper.finish(), saving.keeper.last.name, saving.heard[1:]]
    run.args.unified_checkpoint_config = ""
    copy = Saving(run)
    copy.save(saving.state.global_step + 1)
    _load(run, Path(run.args.output_dir) / "checkpoint-1")
    found["same"] = bool(np.isclose(losses[1], copy.step(2), rtol=0, atol=0))
    return {**found, "last": saving.state.global_step}


def _beside_fails(run: Run) -> Dict[str, Any]:
    saving = Saving(run)
    saving.step(1)
    mended = _failing(saving, 1)
    found: Dict[str, Any] = {"at once": saving.save()}
    found["error"] = _until_told(saving)
    mended()
    saving.save()
    return {**found, "left": _left(run), "then": saving.keeper.finish().name}


def _until_told(saving: Saving) -> str:
    from paddlenlp.utils.errors import UsageError

    try:
        while saving.keeper.saver.under_way:
            saving.keeper.look()
            saving.step(saving.state.global_step)
    except UsageError as error:
        return str(error)
    return "no error"


def _beside_fails_and_goes_on(run: Run) -> Dict[str, Any]:
    from paddlenlp.utils.log import logger

    warnings, logger.warning = [], lambda text: warnings.append(text)
    saving = Saving(run)
    saving.step(1)
    mended = _failing(saving, 0)
    saving.save()
    found: Dict[str, Any] = {"finished": saving.keeper.finish(), "warnings": warnings, "last": saving.keeper.last}
    mended()
    saving.save()
    del logger.warning
    return {**found, "then": saving.keeper.finish().name}
