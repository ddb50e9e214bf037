"""Start a job of four ranks again and again with Paddle's launcher, and count how often it fails or hangs.

    python benchmarks/launch/launch_many.py --launches 50 --out result.json

Each job forms the groups of a tp2 x pp2 mesh as training does, and runs collectives over all of them, whose results it
checks. Prints JSON: launches, failures, hangs, and the seconds that one takes (median, longest). On two idle cores a
launch takes 5 to 8 seconds, nearly all of it for importing Paddle. The figures need the machine, its load and the date
beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Tuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from repeated import summary  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent.parent
RANKS = 4
DONE = "rank {} done"


def main() -> None:
    """All launches, one after the other."""
    args = parse()
    results = []
    for number in range(args.launches):
        outcome, seconds = launch(args.limit)
        results.append((outcome, seconds))
        print(f"launch {number + 1} of {args.launches}: {outcome}, {seconds:.1f} s", file=sys.stderr, flush=True)
    figures = summary([outcome for outcome, _ in results], [taken for _, taken in results])
    text = json.dumps({"launches": len(results), **figures}, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--launches", type=int, default=50)
    parser.add_argument("--limit", type=float, default=180.0, help="seconds after which a launch counts as hanging")
    parser.add_argument("--out", type=Path, help="file for the JSON")
    return parser.parse_args()


def launch(limit: float) -> Tuple[str, float]:
    """One job: "passed", "failed" or "hung", and the seconds it took."""
    folder = Path(tempfile.mkdtemp())
    command = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", str(RANKS), "--log_dir", "log"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    start = time.monotonic()
    with (folder / "out").open("w") as out:
        job = subprocess.Popen(
            [*command, str(ROOT / "benchmarks/launch/job.py")], cwd=folder, env=env, stdout=out, stderr=out
        )
        try:
            outcome = "failed" if job.wait(limit) or not all_done(folder) else "passed"
        except subprocess.TimeoutExpired:
            outcome = "hung"
            job.send_signal(signal.SIGKILL)  # the ranks end with their launcher
            job.wait()
    if outcome == "passed":
        shutil.rmtree(folder)
    else:
        print(f"{outcome}: what it has printed is in {folder}", file=sys.stderr)
    return outcome, time.monotonic() - start


def all_done(folder: Path) -> bool:
    """Whether every rank has said so."""
    logs = [folder / "log" / f"workerlog.{rank}" for rank in range(RANKS)]
    return all(log.exists() and DONE.format(rank) in log.read_text() for rank, log in enumerate(logs))


if __name__ == "__main__":
    main()
