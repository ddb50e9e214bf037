"""Runs of run_pretrain.py whose writes fail, each in a process of its own: see `test_storage.py`."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "llm"), str(HERE), str(HERE.parent / "llm"), str(HERE.parent / "parallel")]

from syscalls import Faults  # noqa: E402

KINDS = {
    "full": (errno.ENOSPC, True),
    "quota": (errno.EDQUOT, True),
    "read-only": (errno.EROFS, True),
    "device": (errno.EIO, False),
}
"""Name -> (error, whether all later calls fail too)."""

POLICIES = ("stop", "continue")
TINY = dict(max_steps=2, save_steps=1, eval_steps=2, save_total_limit=1, num_hidden_layers=1, report_to=["visualdl"])


class Runs:
    """Runs of run_pretrain.py that write below one folder.

    Args:
        top: folder of the materials; the runs write to `top/watched`.
        changes: arguments of all runs.
    """

    def __init__(self, top: Path, faults: Faults, **changes: Any) -> None:
        self.top, self.faults, self.changes = top, faults, changes
        self.watched = top / "watched"
        self.out = self.watched / "out"
        _prepare(top)

    def fresh(self) -> None:
        """Forget what earlier runs have written."""
        self.faults.arm(0)
        shutil.rmtree(self.watched, ignore_errors=True)
        self.watched.mkdir()

    def run(self, **changes: Any) -> Dict[str, Any]:
        """The same command once more: how it ended."""
        return run(self.top, self.out, **{"data_cache": str(self.watched / "cache"), **self.changes, **changes})

    def failing(self, at: int, kind: str, pattern: str = "", **changes: Any) -> Dict[str, Any]:
        """A fresh run whose call number `at` (of those that `pattern` describes) fails, what it left, and how the same
        command went on from there."""
        self.fresh()
        self.faults.arm(at, *KINDS[kind], pattern)
        found = self.run(**changes)
        found["failed"] = self.faults.failed
        self.faults.disarm()
        left = sorted(path.name for path in self.out.glob("*checkpoint-*"))
        found.update(at=at, kind=kind, pattern=pattern, left=left, damaged=damaged(self.out), **changes)
        if at:
            found["again"] = self.run(**changes)
        found["digest"] = digest(self.out)
        return found

    def calls(self) -> List[str]:
        """What a run that nothing happens to writes, call by call."""
        self.failing(0, "full")  # the first run of a process also compiles things
        record = self.top / "calls"
        self.fresh()
        before = len(record.read_text().splitlines())
        self.run()
        return record.read_text().splitlines()[before:]


def _prepare(top: Path) -> None:
    from materials import write_materials

    if not (top / "data").exists():
        write_materials(top)


def run(top: Path, out: Path, **changes: Any) -> Dict[str, Any]:
    """run_pretrain.py with output_dir `out`: how it ended."""
    import run_pretrain
    from materials import arguments

    from paddlenlp.utils.errors import UsageError

    config = top / "config.json"
    config.write_text(json.dumps(arguments(top, out, **changes)))
    try:
        run_pretrain.main([str(config)])
        return {"end": "done", "message": ""}
    except UsageError as error:
        return {"end": "error", "message": str(error)}
    except Exception as error:
        return {"end": type(error).__name__, "message": str(error)}


def damaged(out: Path) -> List[str]:
    """What a reader would find wrong with the checkpoints that lie there."""
    from paddlenlp.checkpoint.folder import checkpoint_folders
    from paddlenlp.checkpoint.manifest import verify

    return [f"{folder.name}: {problem}" for folder in checkpoint_folders(out) for problem in verify(folder)]


def digest(out: Path) -> Dict[str, str]:
    """Hashes of the tensors in the newest checkpoint."""
    from paddlenlp.checkpoint.folder import latest_checkpoint
    from paddlenlp.utils.files import sha256_file

    folder = latest_checkpoint(out)
    return {} if folder is None else {path.name: sha256_file(path) for path in folder.glob("*.safetensors")}


def chosen_calls(top: Path, cases: List[List[str]]) -> Dict[str, Any]:
    """Runs of which one write fails: the first call that a pattern describes.

    Args:
        cases: (pattern, kind of failure, save_failure_policy) of each.
    """
    runs = Runs(top, Faults.begin(str(top / "watched"), str(top / "calls")), **TINY)
    found = [runs.failing(1, kind, pattern, save_failure_policy=policy) for pattern, kind, policy in cases]
    return {"whole": runs.failing(0, "full")["digest"], "runs": found}


def every_call(top: Path, step: int, first: int) -> Dict[str, Any]:
    """Runs of which one write fails: every `step`-th call from number `first` on, each with all kinds; policies in
    turn."""
    runs = Runs(top, Faults.begin(str(top / "watched"), str(top / "calls")), **TINY)
    calls = len(runs.calls())
    turns = [(at, kind) for at in range(1 + first, calls + 1, step) for kind in KINDS]
    found = [
        runs.failing(at, kind, save_failure_policy=POLICIES[(at + turn) % len(POLICIES)])
        for turn, (at, kind) in enumerate(turns)
    ]
    return {"calls": calls, "whole": runs.failing(0, "full")["digest"], "runs": found}


def full_disk(top: Path, out: str) -> Dict[str, Any]:
    """Runs on a small disk that is filled at the second checkpoint; it has room again for the third, or not before the
    run has ended."""
    from paddlenlp.trainer.keeper import CheckpointKeeper

    tiny = dict(max_steps=3, save_steps=1, num_hidden_layers=1)
    _prepare(top)
    run(top, top / "whole", **tiny)
    found: Dict[str, Any] = {"whole": digest(top / "whole")}
    save, filler = CheckpointKeeper.save, Path(out) / "filler"
    for name, policy, until in (("room again", "continue", 3), ("continue", "continue", 9), ("stop", "stop", 9)):
        folder = Path(out) / name

        def save_on_it(keeper: Any, state: Any, *more: Any, until: int = until) -> Any:
            if state.global_step == 2:
                _fill(filler)
            if state.global_step == until:
                filler.unlink()
            return save(keeper, state, *more)

        CheckpointKeeper.save = save_on_it  # type: ignore[method-assign]
        outcome = run(top, folder, save_failure_policy=policy, **tiny)
        outcome["left"] = sorted(path.name for path in folder.glob("*checkpoint-*"))
        outcome["damaged"] = damaged(folder)
        CheckpointKeeper.save = save  # type: ignore[method-assign]
        filler.unlink(missing_ok=True)
        outcome["again"], outcome["digest"] = run(top, folder, **tiny), digest(folder)
        lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        outcome["steps"] = [line["global_step"] for line in lines if "loss" in line]
        shutil.rmtree(folder)
        found[name] = outcome
    return found


def _fill(path: Path) -> None:
    with open(path, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


def of_two_ranks(payload: Dict[str, Any]) -> List[Dict[str, Any]]:
    """One of two ranks, under tensor parallelism, that save a checkpoint again and again; in turn, a write of one of
    them fails."""
    rank, output = int(os.environ["PADDLE_TRAINER_ID"]), Path(payload["folder"])
    output.mkdir(exist_ok=True)
    faults = Faults.begin(str(output), f"{output}.calls{rank}")
    from layouts import LAYOUTS
    from work_checkpoint import MODELS
    from work_layouts import Run

    family, config, _ = MODELS["tied, one key head"]
    runner = Run({**LAYOUTS["tp2"].arguments, "output_dir": str(output), "save_total_limit": 1}, family, config)
    runner.train(1)
    _saved(runner, 1)
    faults.arm(0)
    _saved(runner, 2)
    calls = [faults.disarm(), 0]
    from paddlenlp.parallel.objects import everyones

    calls = everyones(calls[0])
    found, number = [], 2
    for who in range(2):
        for turn in range(payload["points"]):
            at, number = 1 + turn * calls[who] // payload["points"], number + 1
            faults.arm(at if rank == who else 0, *list(KINDS.values())[turn % len(KINDS)])
            message = _saved(runner, number)
            failed = faults.failed
            faults.disarm()
            everyones(0)
            left = sorted(path.name for path in output.glob("*checkpoint-*"))
            found.append({"who": who, "failed": failed, "message": message, "left": left, "damaged": damaged(output)})
            everyones(0)
    found.append(
        {"then": _saved(runner, number + 1), "left": sorted(path.name for path in output.glob("checkpoint-*"))}
    )
    return found


def _saved(runner: Any, step: int) -> str:
    """Save; the message if that fails."""
    from paddlenlp.trainer.keeper import CheckpointKeeper
    from paddlenlp.trainer.state import TrainerState
    from paddlenlp.utils.errors import UsageError

    keeper = CheckpointKeeper(runner.model, None, runner.args, [])
    try:
        keeper.save(TrainerState(global_step=step), runner.optimizer, runner.step.lr_scheduler, None)
        return ""
    except UsageError as error:
        return str(error)


def main() -> None:
    """One process: `python work_storage.py TOP FUNCTION PAYLOAD`; the result is in TOP/result.json."""
    top, function, payload = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
    jobs: Dict[str, Callable[..., Any]] = {
        "chosen_calls": chosen_calls,
        "every_call": every_call,
        "full_disk": full_disk,
    }
    (top / "result.json").write_text(json.dumps(jobs[function](top, **payload)))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
