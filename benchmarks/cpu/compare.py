"""Race the toolkit against its peers in alternation (A B C A B C ...) and compare medians: one command.

python benchmarks/cpu/compare.py --shape a --torch-python ENV/bin/python --nlp-python ENV/bin/python

Each side runs in a process of its own; each peer in an environment of its own. A peer whose environment is not given,
or lacks what the peer needs, is left out with a line. With --add the results join those of earlier runs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Tuple

import common

HERE = Path(__file__).resolve().parent
KEPT_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
    "MALLOC_TOP_PAD_": "268435456",
}
"""glibc settings that the toolkit makes for itself; the peers get them too, since they make them faster."""

TUNED = {**KEPT_MEMORY, "MKL_DEBUG_CPU_TYPE": "5"}


class Side(NamedTuple):
    """Who takes part.

    Attributes:
        environment: the option that names its Python; "" for this one.
        script, options: what is run.
        variables: of its environment.
        modules: what its Python must be able to import.
    """

    environment: str
    script: str
    options: Tuple[str, ...] = ()
    variables: Dict[str, str] = {}
    modules: Tuple[str, ...] = ()


SIDES: Dict[str, Side] = {
    "run_pretrain": Side("", "pretrain_llama.py"),
    "loop": Side("", "train_llama.py"),
    "torch-eager": Side("torch_python", "torch_llama.py", (), KEPT_MEMORY, ("torch", "numpy")),
    "torch-compile": Side("torch_python", "torch_llama.py", ("--compile",), KEPT_MEMORY, ("torch", "numpy")),
    "hf-trainer": Side("torch_python", "hf_trainer.py", (), KEPT_MEMORY, ("torch", "transformers", "accelerate")),
    "paddlenlp": Side("nlp_python", "paddlenlp_trainer.py", (), {}, ("paddle", "paddlenlp")),
    "paddlenlp-tuned": Side("nlp_python", "paddlenlp_trainer.py", (), TUNED, ("paddle", "paddlenlp")),
}
"""The toolkit as users run it and as a bare loop; then the peers."""

OURS = ("run_pretrain", "loop")

Result = Dict[str, Any]


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-python", help="Python of an environment with torch, transformers, accelerate, numpy")
    parser.add_argument("--nlp-python", help="Python of an environment with the paddlenlp wheel")
    parser.add_argument("--only", nargs="+", choices=list(SIDES), help="run these sides; default: all")
    parser.add_argument("--shape", default="a", choices=sorted(common.SHAPES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--skip", type=int, default=3, help="first steps of each run left out of its medians")
    parser.add_argument("--work", type=Path, default=Path("data/benchmark-cpu"), help="folder for tokens and weights")
    parser.add_argument("--add", action="store_true", help="keep the results that the file has of earlier runs")
    parser.add_argument("--out", type=Path, help="JSON file for all results; default: results/race-SHAPE.json")
    return parser.parse_args()


def present(args: argparse.Namespace) -> Dict[str, str]:
    """Side -> its Python, of those that can take part; says why others can't."""
    found: Dict[str, str] = {}
    for name in args.only or SIDES:
        side = SIDES[name]
        python = getattr(args, side.environment) if side.environment else sys.executable
        why = (
            f"--{side.environment.replace('_', '-')} is not given" if python is None else lacking(python, side.modules)
        )
        if why:
            print(f"{name} is left out: {why}")
        else:
            found[name] = python
    return found


def lacking(python: str, modules: Tuple[str, ...]) -> str:
    """Why this Python can't run a side that needs these modules, "" if it can."""
    code = f"import importlib.util as u; print(*(m for m in {modules!r} if u.find_spec(m) is None))"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, cwd=HERE)
    except OSError as error:
        return f"{python} can't be run: {error.strerror}"
    absent = done.stdout.split()
    return f"{python} has no {', '.join(absent)}" if absent else done.stderr.strip()[-200:]


def run(name: str, python: str, args: argparse.Namespace) -> Result:
    """One measurement in a process of its own."""
    side = SIDES[name]
    command = [python, str(HERE / side.script), *side.options, "--shape", args.shape, "--steps", str(args.steps)]
    command += ["--skip", str(args.skip), "--threads", str(args.threads), "--work", str(args.work)]
    environment = {**os.environ, **side.variables}
    if side.environment:
        environment.pop("PYTHONPATH", None)  # a peer sees nothing of this environment
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not lines:
        sys.exit(f"{' '.join(command)} failed with exit code {done.returncode}:\n{done.stderr[-3000:]}")
    return {**json.loads(lines[0][7:]), "load": os.getloadavg()[0]}


def median(results: List[Result], key: str) -> float:
    """Of one side's runs."""
    return statistics.median(float(result[key]) for result in results)


def ratio(ours: List[Result], theirs: List[Result], key: str) -> float:
    """How many times as fast we are: the median over the rounds, in each of which both ran one after the other."""
    wanted = {(result["run"], result["round"]): float(result[key]) for result in ours}
    return statistics.median(float(result[key]) / wanted[result["run"], result["round"]] for result in theirs)


def ratios(ours: List[Result], theirs: List[Result]) -> Dict[str, Any]:
    """The ratios of all rounds, and that of each run."""
    runs = sorted({result["run"] for result in theirs})
    each = [ratio(ours, [result for result in theirs if result["run"] == run], "seconds_per_step") for run in runs]
    return {
        "seconds": round(ratio(ours, theirs, "seconds_per_step"), 4),
        "cpu_seconds": round(ratio(ours, theirs, "cpu_seconds_per_step"), 4),
        "seconds_of_runs": [round(found, 4) for found in each],
    }


def summary(name: str, results: List[Result], ours: List[Result]) -> str:
    """The line of one side."""
    speeds = [float(result["tokens_per_second"]) for result in results]
    return (
        f"{name:16s} {statistics.median(speeds):8.1f} tokens/s [{min(speeds):.1f}, {max(speeds):.1f}]  "
        f"{median(results, 'cpu_seconds_per_step'):.3f} CPU s/step  "
        f"{max(int(result['peak_megabytes']) for result in results)} MB  "
        f"first step after {median(results, 'first_step_after_start'):.1f} s  "
        f"against it we are {ratio(ours, results, 'seconds_per_step'):.3f} x "
        f"({ratio(ours, results, 'cpu_seconds_per_step'):.3f} x per CPU second)  losses {results[0]['losses'][:3]}"
    )


def main() -> None:
    """Measure, print, write."""
    args = parse()
    common.prepare(args.work, args.shape)
    pythons = present(args)
    out = args.out or HERE / "results" / f"race-{args.shape}.json"
    results: Dict[str, List[Result]] = {}
    if args.add and out.exists():
        results = json.loads(out.read_text(encoding="utf-8"))["results"]
    runs = 1 + max((result["run"] for found in results.values() for result in found), default=0)
    for number in range(1, args.rounds + 1):
        for name, python in pythons.items():
            one = {**run(name, python, args), "run": runs, "round": number}
            results.setdefault(name, []).append(one)
            print(f"round {number}: {name} {one['tokens_per_second']} tokens/s, load {one['load']:.1f}", flush=True)
    first = next((name for name in OURS if name in results), next(iter(results)))
    print("\n".join(summary(name, found, results[first]) for name, found in results.items()))
    found = {name: ratios(results[first], theirs) for name, theirs in results.items()}
    record = {"shape": args.shape, "threads": args.threads, "ours": first, "ratios": found, "results": results}
    out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
