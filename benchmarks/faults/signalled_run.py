"""`llm/run_pretrain.py CONFIG.json` that stays in one phase for a moment, and says so by making a file.

python benchmarks/faults/signalled_run.py PHASE FILE CONFIG.json
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any, Callable

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "llm")]

import run_pretrain  # noqa: E402

from paddlenlp.parallel.failure import run_as_rank  # noqa: E402

STAY = 0.5
"""Seconds."""

PASSES = 9
"""Forward passes of the training before the one to stay in: it is the first of two of a step."""

WAITED_FOR = 20
"""The sample that never comes."""


def stay_at(path: Path, call: Callable[..., Any], number: int) -> Callable[..., Any]:
    """`call`, which stays for a while before it does what it does the `number`-th time."""
    count = [0]

    def staying(*args: Any, **kwargs: Any) -> Any:
        count[0] += 1
        if count[0] == number:
            path.touch()
            time.sleep(STAY)
        return call(*args, **kwargs)

    return staying


class NeverComes:
    """The samples of a dataset, but for one."""

    def __init__(self, samples: Any, path: Path) -> None:
        self.samples, self.path = samples, path

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        while index == WAITED_FOR:
            self.path.touch()
            time.sleep(1)
        return self.samples[index]


def prepare(trainer: Any, phase: str, path: Path) -> None:
    """Have the trainer stay in the phase."""
    if phase == "data":
        trainer.train_dataset = NeverComes(trainer.train_dataset, path)
    elif phase == "micro-batch":
        trainer.model.run = stay_at(path, trainer.model.run, PASSES)
    elif phase == "evaluation":
        trainer.model.eval_batch = stay_at(path, trainer.model.eval_batch, 2)
    elif phase == "save":
        os.fsync = stay_at(path, os.fsync, 3)
    elif phase == "export":
        trainer.keeper.save_model = stay_at(path, trainer.keeper.save_model, 1)


def main() -> None:
    """The run."""
    phase, path = sys.argv[1], Path(sys.argv[2])
    build = run_pretrain.build_trainer

    def build_and_prepare(*args: Any) -> Any:
        trainer = build(*args)
        prepare(trainer, phase, path)
        return trainer

    run_pretrain.build_trainer = build_and_prepare
    run_pretrain.main(sys.argv[3:])


if __name__ == "__main__":
    sys.exit(run_as_rank(main))
