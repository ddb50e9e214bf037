"""Send a run one of SIGTERM, SIGINT and SIGUSR1 in each of six phases, start it again, and compare it with one that
was left alone.

    python benchmarks/faults/signals.py               # 6 phases x 10: 15 minutes on two idle cores
    python benchmarks/faults/signals.py --ranks 2 --trials 3    # to one rank of two

The phases: start-up (at a random time before the first step), data (which never comes), in a micro batch (of two to a
step), evaluation, inside a save, and export (the final weights). Required of every trial: the run ends within seconds
with 128 plus the number of the signal, on every rank (the launcher ends with a code of its own); but at start-up it has
saved the last whole step, all ranks the same; the restart, the same command, succeeds, and its weights, moments,
losses, evaluations, random states and exported model are those of the uninterrupted run, bit for bit.
"""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from jobs import Place, Run, Trouble, debris, differences, draw, outcome, records, say, until  # noqa: E402
from results import write  # noqa: E402
from signalled_run import STAY  # noqa: E402

PHASES = ("start-up", "data", "micro-batch", "evaluation", "save", "export")
NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
RUN = {
    "max_steps": 12,
    "save_steps": 5,
    "do_eval": True,
    "eval_steps": 4,
    "eval_iters": 3,
    "per_device_train_batch_size": 2,
    "per_device_eval_batch_size": 2,
    "gradient_accumulation_steps": 2,
}
PROMPT = 20.0
"""Seconds within which it ends, on a machine that does other things too."""

SAID = {"export": r"stopped on {name} after writing the model to"}
USUAL = (
    r"stopped on {name} at step (0 of 12\. No checkpoint was saved yet|[1-9]\d* of 12\. The same command goes on from)"
)


def found_by(run: Run) -> Dict[str, Any]:
    """What two equal runs have in common."""
    evaluations = [(r["global_step"], r["eval_loss"]) for r in records(run.out) if "eval_loss" in r]
    return {**outcome(run.out), "evaluations": evaluations[:3]}


def trial(place: Place, phase: str, number: int, seed: int, before: float, expected: Dict[str, Any]) -> float:
    """One signal, one restart; seconds from the signal to the end of the run.

    Args:
        seed: of the trial.
        before: seconds from the start to the first step.
        expected: what the run left that was left alone.

    Raises:
        Trouble: something is not as promised.
    """
    name, path, delay = f"{phase}-{seed}", place.folder / f"{phase}-{seed}.here", draw(seed)
    program = [str(HERE / "signalled_run.py"), phase, str(path)]
    run = place.run(name, program if phase != "start-up" else ())
    if phase == "start-up":
        until(lambda: place.ranks - 1 in run.processes().values(), "its processes do not start")
        time.sleep(max(0.0, delay.uniform(0.05, before) - run.seconds))
    else:
        until(lambda: path.exists() or run.over(), f"it does not come to {phase}")
        time.sleep(delay.uniform(0.0, STAY * 0.8))
    sent = time.monotonic()
    run.send(number, rank=None if place.ranks == 1 else place.ranks - 1)
    code = run.end()
    seconds, log = time.monotonic() - sent, run.log()
    check_end(place, phase, number, code, seconds, log)
    again = place.run(name).succeed()
    unequal = differences(found_by(again), expected)
    if unequal or debris(again.out):
        raise Trouble(f"the restart differs in {unequal}, leaves {debris(again.out)}\n{again.log()[-2000:]}")
    shutil.rmtree(again.out)
    return seconds


def check_end(place: Place, phase: str, number: int, code: int, seconds: float, log: str) -> None:
    """Whether the run has ended as promised."""
    if place.ranks == 1 and code not in (128 + number, -number):  # the latter: before the first line of the program
        raise Trouble(f"exit code {code}, expected {128 + number}\n{log[-2000:]}")
    if code == 0 or seconds > PROMPT:
        raise Trouble(f"exit code {code} after {seconds:.1f} s\n{log[-2000:]}")
    said = re.findall(SAID.get(phase, USUAL).format(name=signal.Signals(number).name), log)
    if phase != "start-up" and (len(said) < place.ranks or len(set(said)) != 1):
        raise Trouble(f"it does not say where it stopped\n{log[-2000:]}")


def campaign(place: Place, trials: int) -> Dict[str, Any]:
    """All trials; what they found."""
    start = time.monotonic()
    first = place.run("reference")
    until(lambda: records(first.out) or first.over(), "it does not begin")
    before = time.monotonic() - start
    expected, good, troubles, seconds = found_by(first.succeed()), dict.fromkeys(PHASES, 0), [], []
    for index in range(trials * len(PHASES)):
        phase, number = PHASES[index % len(PHASES)], NUMBERS[index // len(PHASES) % len(NUMBERS)]
        try:
            took = trial(place, phase, number, index, before, expected)
            good[phase] += 1
            seconds.append(took)
            say(f"{index}: {phase}, {signal.Signals(number).name}: ended after {took:.2f} s, and equal")
        except Trouble as trouble:
            troubles.append(f"{phase}, {signal.Signals(number).name}, trial {index}: {trouble}")
            say(troubles[-1])
    return {"good": good, "trials": trials, "slowest": round(max(seconds, default=0.0), 2), "troubles": troubles}


def report(found: Dict[str, Any], ranks: int) -> bool:
    """Write the result; whether all is well."""
    good, of = sum(found["good"].values()), found["trials"] * len(PHASES)
    where_en = "one process" if ranks == 1 else f"to one rank of {ranks}"
    where_zh = "单进程" if ranks == 1 else f"发给 {ranks} 个进程之一"
    en = f"{good} of {of} equal ({where_en}; 6 phases x {found['trials']}); the slowest end took {found['slowest']} s"
    zh = f"{of} 次中 {good} 次一致（{where_zh}；6 个阶段 x {found['trials']}）；最慢的一次用时 {found['slowest']} 秒"
    write("signals" if ranks == 1 else "signals_ranks", passed=good == of, figures=found, en=en, zh=zh)
    return good == of


def main(argv: List[str]) -> int:
    """The campaign; 1 if something was not as promised."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10, help="in each phase (10)")
    parser.add_argument("--ranks", type=int, default=1, help="processes of each run (1)")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder) / "work", options.ranks, **RUN)
        return 0 if report(campaign(place, options.trials), options.ranks) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
