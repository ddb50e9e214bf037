"""Kill a run at random moments (SIGKILL), start it again, and compare it with one that was left alone.

    python benchmarks/faults/kill.py                  # the whole job, 50 times: 6 minutes on two idle cores
    python benchmarks/faults/kill.py --ranks 4        # one rank of four, 50 times: 25 minutes
    python benchmarks/faults/kill.py --async-save     # the whole job, with checkpoints written in the background

A run is 60 steps that save every 5. Of the kills one in three is aimed inside a save, one in six at the start, before
the first step, one in six at the end, while results and model are written; the others come at any time. The restart is
the same command, and nothing is done before it. Required of every trial: the restart succeeds; all weights, moments,
losses, gradient norms, random states and the exported model are those of the uninterrupted run, bit for bit; at most
`save_steps` steps are computed twice (twice as many where a save is still under way in the background); nothing of the
killed process is left in the folder or running.

With `--work DIR` the trials are kept, and the same command goes on after the last one. The result goes to
results/kill.json, kill_rank.json or kill_async.json.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional

sys.path.insert(0, str(Path(__file__).resolve().parent))

from jobs import Place, Run, Trouble, debris, differences, draw, heed_sigterm, outcome, say, steps_done, until  # noqa: E402
from results import write  # noqa: E402

MOMENTS = ("save", "any", "start", "save", "any", "export")
STEPS, SAVE_STEPS = 60, 5
SAVED = re.compile(r"Saved checkpoint \S+ in ([0-9.]+) s")
GOES_ON = re.compile(r"(?:Continuing training from global|Training is complete: \S+ is at) step (\d+)")
TRIES = 20
"""Runs of which the kill may come at another moment than it is aimed at, for one trial."""


class Reference(NamedTuple):
    """The uninterrupted run: its outcome, and seconds to the first step, from there to the end, and for a save."""

    outcome: Dict[str, Any]
    start: float
    training: float
    saving: float


def reference(place: Place) -> Reference:
    """Carry out the run that is left alone."""
    run = place.run("reference")
    until(lambda: begun(run) or run.over(), "it does not begin")
    start = run.seconds
    run.succeed()
    saves = [float(text) for text in SAVED.findall(run.log())]
    return Reference(outcome(run.out), start, run.seconds - start, max(0.01, sum(saves) / max(1, len(saves))))


def begun(run: Run) -> bool:
    """Whether the first step is over."""
    return (run.out / "metrics.jsonl").exists()


def exporting(run: Run) -> bool:
    """Whether all is trained and saved, and a file beside the checkpoints is being written."""
    return (run.out / f"checkpoint-{STEPS}").exists() and any(run.out.glob(".*.partial"))


def strike(run: Run, moment: str, known: Reference, seed: int, rank: Optional[int]) -> Optional[Dict[str, Any]]:
    """Kill the run at a moment of that kind; what it was doing, or None if it was doing something else.

    Args:
        rank: the one to kill; None: all of them.
    """
    random = draw(seed)
    if moment == "start":
        until(lambda: len(run.processes()) >= run.ranks or run.over(), "it does not start")
        time.sleep(random.uniform(0, 0.8 * known.start))
    elif moment == "save":
        step = SAVE_STEPS * random.randint(1, STEPS // SAVE_STEPS)
        until(lambda: any(run.out.glob(f".checkpoint-{step}.partial*")) or run.over(), "it does not save")
        time.sleep(random.uniform(0, 0.8 * known.saving))
    elif moment == "export":
        until(lambda: exporting(run) or run.over(), "it does not end", pause=0.0002)
    else:
        until(lambda: begun(run) or run.over(), "it does not begin")
        time.sleep(random.uniform(0, known.training))
    if run.over():
        return None
    inside = run.saving()
    if rank is None:
        run.kill()
        inside = run.saving()
        if moment == "save" and not inside or moment == "start" and begun(run):
            return None
    else:
        run.send(signal.SIGKILL, rank)
        if run.end() == 0:
            return None
    return {"moment": moment, "inside_save": inside, "step": steps_done(run.out)}


def trial(place: Place, known: Reference, number: int, allowed: int) -> Dict[str, Any]:
    """One kill and one restart.

    Raises:
        Trouble: what is promised does not hold.
    """
    name, found = f"trial-{number}", None
    rank = draw(number).randrange(place.ranks) if place.ranks > 1 else None
    for attempt in range(TRIES):
        shutil.rmtree(place.out(name), ignore_errors=True)
        run = place.run(name)
        found = strike(run, MOMENTS[number % len(MOMENTS)], known, number + 1000 * attempt, rank)
        if found is not None:
            break
    if found is None:
        raise Trouble(f"{TRIES} runs were not killed at the moment aimed at")
    until(lambda: not run.processes(), "processes of the killed job are still running")
    again = place.run(name).succeed()
    resumed = GOES_ON.search(again.log())
    found.update(rank=rank, resumed=int(resumed.group(1)) if resumed else 0)
    found["twice"] = max(0, found["step"] - found["resumed"])
    check(again, known, found, allowed)
    shutil.rmtree(again.out)
    return found


def check(again: Run, known: Reference, found: Dict[str, Any], allowed: int) -> None:
    """Whether the restarted run is what it must be."""
    different = differences(outcome(again.out), known.outcome)
    if different:
        raise Trouble(f"not equal to the uninterrupted run: {', '.join(different)}; {found}")
    if found["twice"] > allowed:
        raise Trouble(f"{found['twice']} steps were computed twice, {allowed} are allowed; {found}")
    left = debris(again.out)
    if left:
        raise Trouble(f"left in the folder: {left}; {found}")


def campaign(folder: Path, kills: int, ranks: int = 1, async_save: bool = False) -> Dict[str, Any]:
    """All trials, of which those that `folder` already has the results of are not done again; the figures."""
    changes = {"unified_checkpoint_config": "async_save"} if async_save else {}
    place = Place(folder, ranks, max_steps=STEPS, save_steps=SAVE_STEPS, **changes)
    path = folder / "trials.jsonl"
    trials = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    known = reference(place) if len(trials) < kills else None
    for number in range(len(trials), kills):
        began = time.monotonic()
        try:
            found = trial(place, known, number, SAVE_STEPS * (2 if async_save else 1))
        except Trouble as trouble:
            found = {"moment": MOMENTS[number % len(MOMENTS)], "trouble": str(trouble)}
        found["seconds"] = round(time.monotonic() - began, 1)
        trials.append(found)
        with path.open("a") as file:
            file.write(json.dumps(found) + "\n")
        say(f"kill {number + 1} of {kills}: {found}")
    return figures(trials)


def figures(trials: List[Dict[str, Any]]) -> Dict[str, Any]:
    """What the result says."""
    good = [found for found in trials if "trouble" not in found]
    return {
        "kills": len(trials),
        "equal": len(good),
        "inside_save": sum(found["inside_save"] for found in good),
        "moments": dict(Counter(found["moment"] for found in trials)),
        "steps_twice_most": max((found["twice"] for found in good), default=0),
        "steps_twice_mean": round(sum(found["twice"] for found in good) / max(1, len(good)), 2),
        "seconds": round(sum(found["seconds"] for found in trials)),
        "troubles": [found["trouble"] for found in trials if "trouble" in found],
    }


def report(found: Dict[str, Any], ranks: int, async_save: bool) -> bool:
    """Write the result; whether all is well."""
    name = "kill_rank" if ranks > 1 else "kill_async" if async_save else "kill"
    passed = found["equal"] == found["kills"] and 3 * found["inside_save"] >= found["kills"] * (ranks == 1)
    en = f"{found['equal']} of {found['kills']} equal bit for bit; {found['inside_save']} kills inside a save"
    zh = f"{found['kills']} 次中 {found['equal']} 次逐位相同；{found['inside_save']} 次落在保存过程中"
    most, mean = found["steps_twice_most"], found["steps_twice_mean"]
    write(
        name,
        passed,
        found,
        f"{en}; at most {most} steps computed twice (mean {mean})",
        f"{zh}；最多重算 {most} 步（平均 {mean} 步）",
    )
    return passed


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--ranks", type=int, default=1, choices=[1, 4], help="of 4 ranks, one is killed")
    parser.add_argument("--async-save", action="store_true", help="checkpoints are written in the background")
    parser.add_argument("--work", type=Path, help="folder to keep the trials in, and to go on from")
    args = parser.parse_args()
    heed_sigterm()
    folder = args.work or Path(tempfile.mkdtemp(prefix="kill-"))
    found = campaign(folder, args.kills, args.ranks, args.async_save)
    passed = report(found, args.ranks, args.async_save)
    if passed and not args.work:
        shutil.rmtree(folder)
    sys.exit(not passed)


if __name__ == "__main__":
    main()
