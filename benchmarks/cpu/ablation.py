"""What each lever gives: a step with everything, and one without each lever in turn, in alternation; medians.

python benchmarks/cpu/ablation.py [--shape a] [--rounds 3]

Every measurement is `train_llama.py` in a process of its own; each round runs all rows, and a row is compared with the
whole of its own round. Writes results/ablation-SHAPE.json, from whose `ratios` (times as long without the lever)
`COSTS` of paddlenlp/nn/kernels.py is taken.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Tuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import common  # noqa: E402

from paddlenlp.nn.flags import FLAGS  # noqa: E402

WHOLE = "whole"


class Lever(NamedTuple):
    """How `train_llama.py` runs without a lever.

    Attributes:
        variables: of its environment; one that is set is left alone by the toolkit.
        options: of its command line.
    """

    variables: Dict[str, str] = {}
    options: Tuple[str, ...] = ()


def levers() -> Dict[str, Lever]:
    """Row -> lever. Rows of external operations have the name of the first operation of their flag."""
    rows = {
        WHOLE: Lever(),
        "MKL's AVX2 path": Lever({"MKL_DEBUG_CPU_TYPE": "0"}),
        "kept memory": Lever({"MALLOC_TOP_PAD_": "131072"}),
        "no stride kernels": Lever({"FLAGS_use_stride_kernel": "1"}),
        "passive waiting": Lever({"OMP_WAIT_POLICY": "ACTIVE"}),
        "all tuning": Lever({}, ("--untuned",)),
    }
    flags = {flag: ops for flag, ops in FLAGS.items() if ops and flag != "use_fast_layer_norm"}
    rows.update({ops[0]: Lever({}, ("--set", f"{flag}=false")) for flag, ops in flags.items()})
    rows["all"] = Lever({}, ("--set", *(f"{flag}=false" for flag in flags)))
    for op in ("attention", "head_loss", "rms_norm", "rotate", "swiglu"):
        rows[f"plain {op}"] = Lever({}, ("--plain", op))
    rows["all plain"] = Lever({}, ("--plain", *(op for ops in flags.values() for op in ops)))
    return rows


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="a", choices=sorted(common.SHAPES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--only", nargs="+", choices=list(levers()), help="rows besides the whole; default: all")
    parser.add_argument("--work", type=Path, default=Path("data/benchmark-cpu"), help="folder for tokens and weights")
    parser.add_argument("--out", type=Path, help="JSON file; default: results/ablation-SHAPE.json")
    return parser.parse_args()


def run(lever: Lever, args: argparse.Namespace) -> Dict[str, Any]:
    """One measurement."""
    command = [sys.executable, str(HERE / "train_llama.py"), "--shape", args.shape, "--threads", str(args.threads)]
    command += ["--steps", str(args.steps), "--work", str(args.work), *lever.options]
    done = subprocess.run(command, env={**os.environ, **lever.variables}, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not lines:
        sys.exit(f"{' '.join(command)} failed with exit code {done.returncode}:\n{done.stderr[-3000:]}")
    fused = [line for line in done.stderr.splitlines() if line.startswith("Fused operations")]
    return {**json.loads(lines[0][7:]), "load": os.getloadavg()[0], "fused": fused[0] if fused else ""}


def ratios(results: Dict[str, List[Dict[str, Any]]], key: str) -> Dict[str, float]:
    """Row -> how many times as much of `key` a step takes without the lever: the median over the rounds."""
    whole = [result[key] for result in results[WHOLE]]
    return {
        name: round(statistics.median(one[key] / all_ for one, all_ in zip(found, whole)), 4)
        for name, found in results.items()
        if name != WHOLE
    }


def main() -> None:
    """Measure, print, write."""
    args = parse()
    common.prepare(args.work, args.shape)
    rows = {name: lever for name, lever in levers().items() if name == WHOLE or not args.only or name in args.only}
    results: Dict[str, List[Dict[str, Any]]] = {name: [] for name in rows}
    for number in range(args.rounds):
        for name, lever in rows.items():
            results[name].append(run(lever, args))
            one = results[name][-1]
            print(f"round {number + 1}: {name}: {one['seconds_per_step']} s, load {one['load']:.1f}", flush=True)
    wall, cpu, memory = (ratios(results, key) for key in ("seconds_per_step", "cpu_seconds_per_step", "peak_megabytes"))
    print(f"whole: {statistics.median(r['seconds_per_step'] for r in results[WHOLE]):.4f} s/step\nwithout:")
    for name in wall:
        print(f"{name:24s} {wall[name]:6.3f} x time  {cpu[name]:6.3f} x CPU time  {memory[name]:6.3f} x memory")
    record = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "threads": args.threads,
        "ratios": wall,
        "cpu_ratios": cpu,
        "memory_ratios": memory,
        "results": results,
    }
    out = args.out or HERE / "results" / f"ablation-{args.shape}.json"
    out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
