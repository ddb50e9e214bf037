"""Run the toolkit and a peer in alternation (A B A B ...) and compare medians: one command, results as JSON.

python benchmarks/cpu/compare.py --torch-python PATH/TO/ENV/bin/python --rounds 3
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Dict, List

import common

HERE = Path(__file__).resolve().parent
KEPT_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
    "MALLOC_TOP_PAD_": "268435456",
}
"""glibc settings that the toolkit makes for itself; the peer gets them too, since they make it faster."""


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--torch-python", required=True, help="Python of an environment with torch and numpy")
    parser.add_argument("--shape", default="a", choices=sorted(common.SHAPES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--work", type=Path, default=Path("data/benchmark-cpu"), help="folder for tokens and weights")
    parser.add_argument("--out", type=Path, help="JSON file for all results")
    return parser.parse_args()


def run(python: str, script: str, args: argparse.Namespace, variables: Dict[str, str]) -> Dict[str, object]:
    """One measurement in a process of its own."""
    command = [python, str(HERE / script), "--shape", args.shape, "--steps", str(args.steps)]
    command += ["--threads", str(args.threads), "--work", str(args.work)]
    environment = {**os.environ, **variables}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not lines:
        sys.exit(f"{script} failed with exit code {done.returncode}:\n{done.stderr[-3000:]}")
    return {**json.loads(lines[0][7:]), "load": os.getloadavg()[0]}


def summary(results: List[Dict[str, object]]) -> str:
    """Medians and extremes of one side."""
    speeds = [float(result["tokens_per_second"]) for result in results]
    cpu, serial = (
        statistics.median(float(result[key]) for result in results)
        for key in ("cpu_seconds_per_step", "serial_seconds_per_step")
    )
    memory = max(int(result["peak_megabytes"]) for result in results)
    return (
        f"{results[0]['name']:28s} {statistics.median(speeds):8.1f} tokens/s [{min(speeds):.1f}, {max(speeds):.1f}]  "
        f"{cpu:.3f} CPU s/step ({serial:.3f} one after another)  {memory} MB  "
        f"first losses {results[0]['losses'][:3]}"
    )


def main() -> None:
    """Measure, print, write."""
    args = parse()
    common.prepare(args.work, args.shape)
    ours: List[Dict[str, object]] = []
    peer: List[Dict[str, object]] = []
    for number in range(args.rounds):
        ours.append(run(sys.executable, "train_llama.py", args, {}))
        peer.append(run(args.torch_python, "torch_llama.py", args, KEPT_MEMORY))
        speeds = ours[-1]["tokens_per_second"], peer[-1]["tokens_per_second"]
        print(f"round {number + 1}: {speeds[0]} against {speeds[1]} tokens/s, load {peer[-1]['load']:.1f}", flush=True)
    wall, cpu = (
        statistics.median(float(r[key]) for r in peer) / statistics.median(float(r[key]) for r in ours)
        for key in ("seconds_per_step", "cpu_seconds_per_step")
    )
    print(summary(ours), summary(peer), f"ratio {wall:.3f} in tokens/s, {cpu:.3f} in tokens/CPU s", sep="\n")
    if args.out:
        args.out.write_text(json.dumps({"ours": ours, "peer": peer, "ratio": wall, "cpu_ratio": cpu}, indent=1) + "\n")


if __name__ == "__main__":
    main()
