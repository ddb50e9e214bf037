"""3,000 steps with a fault every 100: once faults that a process lives through, once faults that end it.

    python benchmarks/faults/soak.py    # 5 minutes on two idle cores

Three runs of the same command: one with nothing but the bad steps, to compare with; one that is left running through
bad steps (a weight that is not a number, bad_step_policy skip), checkpoints that can't be written (the disk is full,
save_failure_policy continue) and pauses (SIGSTOP, SIGCONT), while its memory, file descriptors and threads are counted
every 20 steps; and one that is killed, killed inside a save, stopped by SIGTERM, or killed and its newest checkpoint
damaged, and started again each time. Required: both end equal to the first, bit for bit; memory grows by less than 3 %
from the second sixth of the run to the last, descriptors and threads not at all; at least 97 % of all steps computed
are in the final model; every bad step and no other is recorded; nothing is left behind.

The result goes to results/soak.json.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import signal
import statistics
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parent))

from damage import flip  # noqa: E402
from jobs import Place, Run, Trouble, debris, differences, draw, heed_sigterm, outcome, say, until  # noqa: E402
from results import write  # noqa: E402

from paddlenlp.checkpoint.folder import checkpoint_folders  # noqa: E402

EVERY, SAVE_STEPS, LOG_STEPS, SAMPLE_STEPS = 100, 3, 10, 20
ENDING = ("bad step", "killed", "killed inside a save", "SIGTERM", "killed, newest checkpoint damaged")
SURVIVED = ("bad step", "save fails", "pause", "save fails", "pause")
MOST_GROWTH, LEAST_USEFUL = 0.03, 0.97
ARGUMENTS = {
    "save_steps": SAVE_STEPS,
    "logging_steps": LOG_STEPS,
    "bad_step_policy": "skip",
    "save_failure_policy": "continue",
}


class Fault(NamedTuple):
    """What happens, and at which step."""

    step: int
    kind: str


class Sample(NamedTuple):
    """What a process has at a step."""

    step: int
    megabytes: float
    descriptors: int
    threads: int


def schedule(steps: int, kinds: Any) -> List[Fault]:
    """A fault in the middle of every hundred steps, kind after kind."""
    return [Fault(step, kinds[number % len(kinds)]) for number, step in enumerate(range(EVERY // 2, steps, EVERY))]


def steps_of(faults: List[Fault], kind: str) -> List[str]:
    return [str(fault.step) for fault in faults if fault.kind == kind]


class Soak:
    """The three runs, in one folder."""

    def __init__(self, folder: Path, steps: int) -> None:
        self.steps = steps
        self.place = Place(folder, max_steps=steps, **ARGUMENTS)
        self.lived, self.ended = schedule(steps, SURVIVED), schedule(steps, ENDING)

    def start(self, name: str, *options: str) -> Run:
        """A run with the bad steps."""
        bad = ["--bad-steps", *steps_of(self.lived, "bad step")]
        program = str(Path(__file__).with_name("soak_run.py"))
        return self.place.run(name, [program, *bad, *options, "--counted", str(self.counted(name))])

    def counted(self, name: str) -> Path:
        """The file with a line for each step computed."""
        return self.place.folder / f"{name}-steps"

    def computed(self, name: str) -> List[int]:
        """The steps computed, in order, by all attempts."""
        with suppress(OSError):
            return [int(line) for line in self.counted(name).read_text().splitlines()]
        return []

    def bad_steps(self, name: str) -> List[str]:
        """The steps that were recorded as bad."""
        path = self.place.out(name) / "bad_steps.jsonl"
        return [str(json.loads(line)["step"]) for line in path.read_text().splitlines()]

    def live_through(self) -> List[Sample]:
        """Faults that the process survives; what it held meanwhile."""
        run = self.start("survived", "--failing-saves", *steps_of(self.lived, "save fails"))
        samples: List[Sample] = []
        pauses = [fault.step for fault in self.lived if fault.kind == "pause"]
        while not run.over():
            step = len(self.computed("survived"))
            if pauses and step >= pauses[0]:
                pauses.pop(0)
                pause(run)
            if step >= SAMPLE_STEPS * (len(samples) + 1):
                with suppress(OSError):
                    samples.append(sample(run.process.pid, step))
            time.sleep(0.02)
        run.succeed()
        failed = run.log().count("cannot write the checkpoint")
        if failed < len(steps_of(self.lived, "save fails")):
            raise Trouble(f"only {failed} saves have failed")
        return samples

    def die_and_go_on(self) -> int:
        """Faults that end the process, and the same command after each; the number of starts."""
        faults = [fault for fault in self.ended if fault.kind != "bad step"]
        for fault in faults:
            self.end_at(self.start("restarted"), fault)
        self.start("restarted").succeed()
        left = debris(self.place.out("restarted"))
        if left:
            raise Trouble(f"left in the folder: {left}")
        return len(faults) + 1

    def end_at(self, run: Run, fault: Fault) -> None:
        """Wait for the step of a fault and let it happen."""
        until(lambda: self.at(run, fault.step), f"step {fault.step} is not reached")
        end(run, fault, self.place)
        say(f"step {fault.step}: {fault.kind}")

    def at(self, run: Run, step: int) -> bool:
        """Whether the run computes that step, or a later one."""
        if run.over():
            raise Trouble(f"it ended with code {run.process.returncode} before step {step}\n{run.log()[-3000:]}")
        return max(self.computed("restarted")[-1:], default=0) >= step


def end(run: Run, fault: Fault, place: Place) -> None:
    """End the run as the fault says, some steps later."""
    random = draw(fault.step)
    if fault.kind == "SIGTERM":
        run.send(signal.SIGTERM)
        if run.end() != 128 + signal.SIGTERM:
            raise Trouble(f"after SIGTERM it ended with code {run.process.returncode}\n{run.log()[-3000:]}")
        return
    if fault.kind == "killed inside a save":
        until(run.saving, "it does not save", pause=0.0005)
    else:
        time.sleep(random.uniform(0, 0.1))
    run.kill()
    if "damaged" in fault.kind:
        newest = checkpoint_folders(place.out("restarted"))[-1]
        flip(random.choice(sorted(path for path in newest.iterdir() if path.is_file())), random)


def pause(run: Run) -> None:
    """Half a second in which the process does not run."""
    run.send(signal.SIGSTOP)
    time.sleep(0.5)
    run.send(signal.SIGCONT)


def sample(process: int, step: int) -> Sample:
    """What a process holds now."""
    status = Path(f"/proc/{process}/status").read_text()
    kilobytes, threads = (int(re.findall(rf"^{name}:\s+(\d+)", status, re.M)[0]) for name in ("VmRSS", "Threads"))
    return Sample(step, round(kilobytes / 1024, 1), len(list(Path(f"/proc/{process}/fd").iterdir())), threads)


def flatness(samples: List[Sample]) -> Dict[str, Any]:
    """Medians in the second sixth of the run and in the last."""
    sixth = len(samples) // 6
    found: Dict[str, Any] = {}
    for name in ("megabytes", "descriptors", "threads"):
        parts = (samples[sixth : 2 * sixth], samples[-sixth:])
        found[name] = [statistics.median(getattr(each, name) for each in part) for part in parts]
    before, after = found["megabytes"]
    found["growth"] = round(after / before - 1, 4)
    found["flat"] = found["growth"] < MOST_GROWTH and all(
        found[name][1] <= found[name][0] for name in ("descriptors", "threads")
    )
    return found


def campaign(folder: Path, steps: int) -> Dict[str, Any]:
    """The three runs; the figures."""
    soak, began = Soak(folder, steps), time.monotonic()
    soak.start("reference").succeed()
    expected, bad = outcome(soak.place.out("reference")), steps_of(soak.lived, "bad step")
    say("the run to compare with is done")
    samples = soak.live_through()
    say(f"lived through {len(soak.lived)} faults: {flatness(samples)}")
    starts = soak.die_and_go_on()
    found: Dict[str, Any] = {"steps": steps, "faults_survived": len(soak.lived), "faults_that_end": len(soak.ended)}
    for name in ("survived", "restarted"):
        computed = len(soak.computed(name))
        found[name] = {
            "steps_computed": computed,
            "useful": round((steps - len(bad)) / computed, 4),
            "different": differences(outcome(soak.place.out(name)), expected),
            "bad_steps": sorted(set(soak.bad_steps(name)), key=int) == bad,
        }
    found.update(starts=starts, **flatness(samples), samples=samples[:: max(1, len(samples) // 30)])
    found["seconds"] = round(time.monotonic() - began)
    return found


def passes(found: Dict[str, Any]) -> bool:
    """Whether all that is required was found."""
    runs = [found["survived"], found["restarted"]]
    equal = all(not run["different"] and run["bad_steps"] for run in runs)
    return equal and found["flat"] and all(run["useful"] >= LEAST_USEFUL for run in runs)


def sentences(found: Dict[str, Any]) -> Tuple[str, str]:
    """The result in English and in Chinese."""
    steps, faults = f"{found['steps']:,}", found["faults_survived"] + found["faults_that_end"]
    starts, useful, growth = found["starts"], f"{found['restarted']['useful']:.1%}", f"{found['growth']:+.1%}"
    equal, flat = not (found["survived"]["different"] or found["restarted"]["different"]), found["flat"]
    return (
        f"2 x {steps} steps, {faults} faults: {'equal bit for bit' if equal else 'NOT EQUAL'}; {useful} of steps "
        f"useful over {starts} starts; memory {growth}, descriptors and threads {'flat' if flat else 'NOT FLAT'}",
        f"2 x {steps} 步、{faults} 次故障：{'逐位相同' if equal else '不相同'}；{starts} 次启动中 {useful} 的步有效；"
        f"内存 {growth}，文件描述符与线程数{'不变' if flat else '有变化'}",
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3000)
    steps = parser.parse_args().steps
    heed_sigterm()
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    found = campaign(folder, steps)
    passed = passes(found)
    write("soak", passed, found, *sentences(found))
    if passed:
        shutil.rmtree(folder)
    else:
        say(f"what the runs left is in {folder}")
    sys.exit(not passed)


if __name__ == "__main__":
    main()
