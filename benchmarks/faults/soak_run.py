"""llm/run_pretrain.py with faults from within, for `soak.py`.

    python benchmarks/faults/soak_run.py --bad-steps 50 550 --failing-saves 150 --counted STEPS.txt CONFIG.json

At a bad step one weight is not a number while the loss is computed. From the beginning of the step of a failing save
on, the first fsync fails for want of space. Each step that is computed adds a line to the file given.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from pathlib import Path
from typing import Any, Set

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "llm")]

import run_pretrain  # noqa: E402

from paddlenlp.parallel.failure import run_as_rank  # noqa: E402
from paddlenlp.trainer.callbacks import TrainerCallback  # noqa: E402


class Faults(TrainerCallback):
    """Does what the command line says, at the steps that it says."""

    bad_steps: Set[int]
    failing_saves: Set[int]
    counted: Path
    kept: Any = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        number = state.global_step + 1
        with self.counted.open("a") as file:
            file.write(f"{number}\n")
        if number in self.bad_steps:
            self.kept = self.weight(kwargs["model"]).numpy().copy()
            self.weight(kwargs["model"]).set_value(self.kept * float("nan"))
        if number in self.failing_saves:
            FullDisk().begin()

    def on_optimizer_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.kept is not None:
            self.weight(kwargs["model"]).set_value(self.kept)
            self.kept = None

    @staticmethod
    def weight(model: Any) -> Any:
        """The parameter that is spoilt: the last one."""
        return list(model.parameters())[-1]


class FullDisk:
    """Lets fsync fail once, wherever it is called from."""

    def begin(self) -> None:
        """From now on."""
        self.fsync, os.fsync = os.fsync, self.fail

    def fail(self, number: int) -> None:
        os.fsync = self.fsync
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def main() -> int:
    """The command line; what is left of it is that of run_pretrain.py."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bad-steps", type=int, nargs="*", default=[])
    parser.add_argument("--failing-saves", type=int, nargs="*", default=[])
    parser.add_argument("--counted", type=Path, required=True)
    own, rest = parser.parse_known_args()
    Faults.bad_steps, Faults.failing_saves, Faults.counted = set(own.bad_steps), set(own.failing_saves), own.counted
    build = run_pretrain.build_trainer

    def with_faults(*arguments: Any) -> Any:
        trainer = build(*arguments)
        trainer.add_callback(Faults)
        return trainer

    run_pretrain.build_trainer = with_faults
    return run_as_rank(lambda: run_pretrain.main(rest))


if __name__ == "__main__":
    sys.exit(main())
