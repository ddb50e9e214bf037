"""Training runs that hang, or are killed: `work_hangs.py FOLDER` is one with processes that load data."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, Dict

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from work_trainer import tiny_run

RANK = int(os.environ.get("PADDLE_TRAINER_ID", "0"))


class Blocking:
    """A dataset of `tokens` in which sample `number` never comes."""

    def __init__(self, tokens: Any, number: int) -> None:
        self.tokens, self.number = tokens, number

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> Any:
        if index == self.number:
            time.sleep(600)
        return self.tokens[index]


def stop_at(rank: int, moment: str) -> Any:
    """A callback that stops `rank` at a moment of step 3."""
    from paddlenlp.trainer.callbacks import TrainerCallback

    def stop(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if rank == RANK and state.global_step >= 2:
            os.kill(os.getpid(), signal.SIGSTOP)

    return type("Stops", (TrainerCallback,), {moment: stop})


def run(given: Dict[str, Any]) -> None:
    """A run on all ranks, in which the rank `given["rank"]` hangs."""
    from paddlenlp.parallel import init_topology
    from paddlenlp.parallel.failure import run_as_rank

    def main() -> None:
        os.fsync = lambda descriptor: None  # a busy disk would look like a hang
        tiny = tiny_run(given["folder"])
        changes = {"hang_timeout": given["timeout"], "max_steps": 6, "do_eval": True, "eval_steps": 3, "save_steps": 3}
        init_topology(tiny.args(**changes))
        tokens = tiny.tokens(64)
        blocked = given.get("blocks", {}) if given["rank"] == RANK else {}
        callbacks = [stop_at(given["rank"], given["stops"])] if "stops" in given else None
        tiny.trainer(
            data=Blocking(tokens, blocked.get("train", -1)),
            valid=Blocking(tokens, blocked.get("valid", -1)),
            callbacks=callbacks,
            **changes,
        ).train()

    sys.exit(run_as_rank(main))


def load_with_processes(folder: str) -> None:
    """Train with two processes that read ahead; the first time until it is killed at step 3."""
    from paddlenlp.trainer.callbacks import TrainerCallback

    step, first = Path(folder) / "step", not (Path(folder) / "step").exists()

    class Slow(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            step.write_text(str(state.global_step))
            if first and state.global_step == 3:
                time.sleep(600)

    tiny = tiny_run(folder)
    tiny.trainer(callbacks=[Slow], dataloader_num_workers=2, max_steps=12, hang_timeout=600.0).train()


if __name__ == "__main__":
    load_with_processes(sys.argv[1])
