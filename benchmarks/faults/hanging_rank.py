"""A rank of run_pretrain.py that stops (SIGSTOP) in a given phase, for hangs.py.

    hanging_rank.py RANK PHASE SECONDS CONFIG

Rank RANK stops itself SECONDS after it has entered PHASE, from step 8 on where the phase belongs to a step.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, Callable

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "llm")]

import run_pretrain  # noqa: E402

from paddlenlp.parallel.failure import run_as_rank  # noqa: E402
from paddlenlp.parallel.heartbeat import Heartbeat  # noqa: E402

FROM_STEP = 8
OF_STEPS = ("read-data", "forward-backward", "optimizer-step", "evaluate", "save")


def stopping(enter: Callable[[Heartbeat, str], None], phase: str, seconds: float) -> Any:
    """`Heartbeat.enter`, with a stop."""

    def enter_and_stop(beat: Heartbeat, name: str) -> None:
        enter(beat, name)
        if name == phase and (phase not in OF_STEPS or beat.step >= FROM_STEP):
            time.sleep(seconds)
            print(f"stopped in {phase} of step {beat.step} at {time.time()}", flush=True)
            os.kill(os.getpid(), signal.SIGSTOP)

    return enter_and_stop


def main() -> None:
    """The run."""
    rank, phase, seconds, config = sys.argv[1:]
    if os.environ["PADDLE_TRAINER_ID"] == rank:
        Heartbeat.enter = stopping(Heartbeat.enter, phase, float(seconds))  # type: ignore[method-assign]
    run_pretrain.main([config])


if __name__ == "__main__":
    sys.exit(run_as_rank(main))
