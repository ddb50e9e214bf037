"""One rank of four is stopped in each phase of a run: do all the others name it and its phase, and end in time?

    python benchmarks/faults/hangs.py [--folder DIR] [--timeout 10] [--seed 0]

For every phase a job of four ranks (tp 2, sharding 2) under Paddle's launcher. A rank stops itself (SIGSTOP): in odd
trials in the moment in which it enters the phase, in even ones up to two seconds later. Expected: the log of every
other rank names the rank and the phase within hang_timeout + 5 s, has the stacks of its threads, and its process has
ended with code 7 two seconds later.
"""

from __future__ import annotations

import argparse
import re
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict

from jobs import Place, Trouble, draw, say, until
from results import write

PROGRAM = Path(__file__).with_name("hanging_rank.py")
PHASES = (
    "start-up",
    "data",
    "load checkpoint",
    "read-data",
    "forward-backward",
    "optimizer-step",
    "evaluate",
    "save",
    "end",
)
RANKS = 4
ALLOWED = 5.0
"""Seconds after hang_timeout within which all is said."""


def trial(place: Place, number: int, phase: str, timeout: float, seed: int) -> Dict[str, Any]:
    """Stop a rank in a phase; what was found."""
    rank, delay = number % RANKS, 0.0 if number % 2 else draw(seed + number).uniform(0, 2)
    program = [str(PROGRAM), str(rank), phase, f"{delay:.3f}"]
    run = place.run(f"trial{number}", program, hang_timeout=timeout, do_eval=True, eval_steps=5, max_steps=12)
    try:
        return {"phase": phase, "rank": rank, **look(run, rank, phase, timeout)}
    finally:
        run.send(signal.SIGKILL)
        run.kill()


def look(run: Any, rank: int, phase: str, timeout: float) -> Dict[str, Any]:
    """Watch the logs of a run in which a rank stops."""
    logs = {other: run.logs / f"workerlog.{other}" for other in range(RANKS)}
    until(lambda: re.search(r"stopped in", text(logs[rank])), f"rank {rank} never came to {phase}", pause=0.05)
    where, when = re.search(r"stopped in (.*) at ([\d.]+)\n", text(logs[rank])).groups()  # type: ignore[union-attr]
    said: Dict[int, float] = {}
    others = [other for other in range(RANKS) if other != rank]
    expected = re.compile(f"error: hang: rank {rank} in phase {re.escape(where.replace(' of step 0', ''))}: ")
    while len(said) < len(others) and time.time() < float(when) + timeout + 2 * ALLOWED:
        for other in others:
            if other not in said and expected.search(text(logs[other])):
                said[other] = time.time() - float(when)
        time.sleep(0.05)
    if len(said) < len(others):
        found = "\n".join(f"--- rank {other}\n{text(logs[other])[-1500:]}" for other in others)
        raise Trouble(f"{where}: ranks {sorted(said)} of {others} name rank {rank} and its phase\n{found}")
    stacks = all("most recent call first" in text(logs[other]) for other in others)
    until(lambda: set(run.processes().values()) <= {rank}, "the other ranks do not end", limit=ALLOWED)
    return {"stopped in": where, "seconds": round(max(said.values()), 2), "stacks": stacks}


def text(path: Path) -> str:
    """What a rank has printed."""
    return path.read_text(errors="replace") if path.exists() else ""


def main() -> None:
    """All phases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where to work; a temporary one if left out")
    parser.add_argument("--timeout", type=float, default=10.0, help="hang_timeout of the runs, in seconds")
    parser.add_argument("--seed", type=int, default=0, help="of the delays")
    parser.add_argument("--phase", choices=PHASES, action="append", help="only this one, not saved; may be repeated")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        place = Place((options.folder or Path(scratch)).resolve(), RANKS)
        trials = []
        for number, phase in enumerate(PHASES):
            if options.phase and phase not in options.phase:
                continue
            try:
                trials.append(trial(place, number, phase, options.timeout, options.seed))
            except Trouble as error:
                trials.append({"phase": phase, "rank": number % RANKS, "trouble": str(error)})
            say(f"{phase}: {trials[-1]}")
    named = [one for one in trials if one.get("stacks")]
    slowest = max((one["seconds"] for one in named), default=0.0)
    passed = len(named) == len(trials) and slowest <= options.timeout + ALLOWED
    if not options.phase:
        count, limit = f"{len(named)}/{len(trials)}", f"{slowest:.1f} s"
        write(
            "hangs",
            passed,
            {"hang_timeout": options.timeout, "trials": trials},
            f"right rank and phase on all ranks {count}, within {limit} of the stop (timeout {options.timeout:g} s)",
            f"所有进程都指出正确的进程和阶段 {count}；停止后最多 {limit}（超时为 {options.timeout:g} 秒）",
        )
    sys.exit(not passed)


if __name__ == "__main__":
    main()
