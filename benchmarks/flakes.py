"""Run the tests of several processes again and again, and count which ones fail at times.

    python benchmarks/flakes.py --runs 20 --out result.json [tests/parallel/test_group.py ...]

Without names it runs tests/parallel and tests/llm/test_launched.py, two files at a time as `make test` does. Prints
JSON: runs, how many failed or hung, which tests failed in how many of them, the seconds a run takes (median, longest).
What a run that failed has printed is kept. The figures need the machine, its load and the date beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import List, NamedTuple

from repeated import summary

ROOT = Path(__file__).resolve().parent.parent
TESTS = ["tests/parallel", "tests/llm/test_launched.py"]
FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)


class Run(NamedTuple):
    """One run: "passed", "failed" or "hung", the tests that failed, and the seconds it took."""

    outcome: str
    failed: List[str]
    seconds: float


def main() -> None:
    """All runs, one after the other."""
    args = parse()
    runs = []
    for number in range(args.runs):
        runs.append(run(args.tests or TESTS, args.workers, args.limit))
        print(f"run {number + 1} of {args.runs}: {runs[-1]}", file=sys.stderr, flush=True)
    tests = Counter(name for run in runs for name in run.failed)
    figures = summary([run.outcome for run in runs], [run.seconds for run in runs])
    text = json.dumps({"runs": len(runs), "failed_tests": dict(tests.most_common()), **figures}, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")
    sys.exit(any(found.outcome != "passed" for found in runs))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tests", nargs="*", help="files or folders")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2, help="files that run at the same time")
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds after which a run counts as hanging")
    parser.add_argument("--out", type=Path, help="file for the JSON")
    return parser.parse_args()


def run(tests: List[str], workers: int, limit: float) -> Run:
    """All tests once."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rfE", "--color", "no"]
    command += ["-n", str(workers), "--dist", "loadfile", *tests]
    start = time.monotonic()
    with tempfile.NamedTemporaryFile("w+", prefix="flakes-", suffix=".log", delete=False) as log:
        job = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            outcome = "failed" if job.wait(limit) else "passed"
        except subprocess.TimeoutExpired:
            outcome = "hung"
            os.killpg(job.pid, signal.SIGKILL)  # what the tests have started ends with them
            job.wait()
    path = Path(log.name)
    failed = FAILED.findall(path.read_text(errors="replace"))
    if outcome == "passed":
        path.unlink()
    else:
        print(f"{outcome}: what it has printed is in {path}", file=sys.stderr)
    return Run(outcome, failed, time.monotonic() - start)


if __name__ == "__main__":
    main()
