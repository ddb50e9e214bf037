"""Check the CUDA kernels of external_ops against float64 on the GPU at hand, and time them beside a plain copy. Needs
nvcc, numpy and a GPU, no Paddle.

    python benchmarks/cuda/run.py --out benchmarks/cuda/results/NAME.json [--check-only] [--arch sm_90] [--nvcc PATH]

Every kernel runs in every type, at odd sizes, with tensors that are not aligned, and at hidden sizes from 64 to 16384;
the exit code is 1 if a result is wrong. Then each is timed on tensors much larger than the caches: bytes that it has to
move, divided by the time, as a share of what `cudaMemcpyAsync` from device to device reaches at that size.

`--emulate` runs the same kernels through an emulator on the CPU (needs g++), where times say nothing.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parent))

import cases  # noqa: E402
import checking  # noqa: E402
import library  # noqa: E402
import numpy as np  # noqa: E402

WIDTHS = [64, 65, 96, 127, 128, 256, 257, 500, 512, 768, 1000, 1024, 1280, 2048, 2560, 4096, 4097, 5120, 6144, 7168]
WIDTHS += [8191, 8192, 12288, 16383, 16384]
FLAT = [1, 7, 8, 255, 4096, 100003]
TIMED_WIDTHS = [64, 256, 1024, 2048, 4096, 4097, 5120, 8192, 12288, 16384]
CALLS = 10
VOCABULARIES = [32000, 151936, 151937]
TARGETS = {"rms_norm": 0.85, "layer_norm": 0.85, "rms_norm_grad": 0.75, "layer_norm_grad": 0.75}
"""Kernel -> the share of copy bandwidth that is aimed at, where the hidden size can be read by vectors."""


def check(lib: library.Library, all_cases: Iterator[cases.Case], shifts: Sequence[int]) -> List[Dict[str, Any]]:
    """One row for each case: the error of each result as a share of what rounding allows."""
    rows = []
    for case in all_cases:
        expected = checking.expected(case)
        for shift in shifts:
            found = checking.results(lib, case, shift)
            errors = checking.errors(case, found, expected)
            same = checking.same_bits(found, checking.results(lib, case, shift))
            right = same and max(errors.values()) <= 1
            rows.append({"case": str(case), "shift": shift, "errors": errors, "same_bits": same, "right": right})
            if not right:
                print(f"WRONG {case}, shift {shift}: errors {errors}, the same bits twice: {same}", flush=True)
    return rows


def timed_cases(megabytes: float, widths: Sequence[int], vocabularies: Sequence[int]) -> Iterator[cases.Case]:
    """Cases that move about so many megabytes each, with these hidden sizes and columns of logits."""
    draw, size = cases.Draw(), megabytes * 2**20
    for pair in (("float32", "float32"), ("bfloat16", "bfloat16"), ("float32", "bfloat16")):
        bytes_of = sum(np.dtype(cases.STORED[dtype]).itemsize for dtype in pair)
        for cols in widths:
            rows = max(1, int(size / (cols * bytes_of)))
            yield cases.norm(draw, rows, cols, pair, False)
            yield cases.norm(draw, rows, cols, pair, True)
            yield cases.norm(draw, rows, cols, pair, False, residual=True)
            yield cases.norm_grad(draw, rows, cols, pair, False)
            yield cases.norm_grad(draw, rows, cols, pair, True)
    for dtype in ("float32", "bfloat16"):
        count = int(size / 2 / np.dtype(cases.STORED[dtype]).itemsize)
        for interleaved in (False, True):
            yield cases.rope(draw, (1, max(1, count // 4096), 32, 128), dtype, interleaved, False)
        yield cases.swiglu(draw, count, dtype)
        yield cases.swiglu_grad(draw, count, dtype)
        for cols in vocabularies:
            yield cases.cross_entropy_parts(draw, max(1, count // cols), cols, dtype)
            yield cases.cross_entropy_slopes(draw, max(1, count // cols), cols, dtype, False)
        yield cases.embedding_grad(draw, max(1, count // 2 // 4096), max(1, count // 2 // 4096), 4096, dtype, 0.05)
        yield cases.adamw(draw, count // 4, dtype, None if dtype == "float32" else dtype)
        yield cases.squared_norm(draw, count, dtype)


def median_milliseconds(lib: library.Library, name: str, arguments: Sequence[Any], rounds: int) -> float:
    """Of one call: the median of so many rounds of CALLS, after one round that doesn't count."""
    return statistics.median([lib.milliseconds(name, arguments, CALLS) for _ in range(1 + rounds)][1:])


def copy_rate(lib: library.Library, size: int, rounds: int) -> float:
    """Bytes read and written in a second by a copy that moves `size` bytes in all."""
    zeros = np.zeros(max(1, size // 8), np.float32)
    source, target = library.Buffer(lib, zeros, "float32"), library.Buffer(lib, zeros, "float32")
    time_of_one = median_milliseconds(lib, "harness_copy", (target, source, zeros.nbytes), rounds)
    source.free()
    target.free()
    return 2 * zeros.nbytes / time_of_one * 1e3


def timings(lib: library.Library, all_cases: Iterator[cases.Case], rounds: int) -> List[Dict[str, Any]]:
    """One row for each case: milliseconds, bytes in a second, the share of a copy of the same size."""
    rows, copies = [], {}  # type: ignore[var-annotated]
    for case in all_cases:
        size = case.bytes >> 24 << 24
        if size not in copies:
            copies[size] = copy_rate(lib, size, rounds)
        with checking.buffers(lib, case) as made:
            name, arguments = f"launch_{case.kernel}", tuple(checking.arguments(case, made))
            milliseconds = median_milliseconds(lib, name, arguments, rounds)
        rate = case.bytes / milliseconds * 1e3
        share = rate / copies[size]
        aim = TARGETS.get(case.kernel)
        rows.append({"case": str(case), "ms": milliseconds, "gb_per_s": rate / 1e9, "share_of_copy": share, "aim": aim})
        print(f"{str(case):70} {milliseconds:9.4f} ms {rate / 1e9:8.1f} GB/s {share:7.1%} of a copy", flush=True)
    return rows


def version(compiler: str) -> str:
    """Of a compiler, in its own words."""
    lines = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout.splitlines()
    return next((line for line in lines if "release" in line), lines[0] if lines else "unknown")


def built(args: argparse.Namespace, folder: Path) -> Path:
    return library.build_emulated(folder) if args.emulate else library.build(folder, [args.arch], args.nvcc)


def few_rows(cols: int) -> int:
    return max(1, min(5, 8192 // cols))


def many_rows(cols: int) -> int:
    """More than a GPU works on at once where rows are short."""
    return 1 + 2**20 // cols


def timed_arguments(args: argparse.Namespace) -> Tuple[Iterator[cases.Case], int]:
    return timed_cases(args.megabytes, args.timed_widths, args.vocabularies), args.rounds


def options(arguments: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    parser.add_argument("--check-only", action="store_true", help="no times")
    parser.add_argument("--nvcc", default="nvcc")
    parser.add_argument(
        "--arch", default="native", help="GPU to compile for, for example sm_90; the one at hand if left out"
    )
    parser.add_argument("--megabytes", type=float, default=512, help="what a timed case moves, about")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS, help="hidden sizes that are checked")
    parser.add_argument("--timed-widths", type=int, nargs="+", default=TIMED_WIDTHS, help="hidden sizes that are timed")
    parser.add_argument("--vocabularies", type=int, nargs="+", default=VOCABULARIES, help="columns of timed logits")
    parser.add_argument("--emulate", action="store_true", help="on the CPU, only to try this script")
    return parser.parse_args(arguments)


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """0, 1 if a result was wrong, 2 if there is no compiler."""
    args = options(arguments)
    compiler = "g++" if args.emulate else args.nvcc
    if not shutil.which(compiler):
        print(f"benchmarks/cuda/run.py: {compiler} was not found; install it, or give --nvcc PATH", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        lib = library.Library(built(args, Path(folder)))
        record = {"device": lib.device(), "emulated": args.emulate, "compiler": version(compiler)}
        print(f"{record['device']['name']}, {record['compiler']}", flush=True)
        checked = check(lib, cases.checks(args.widths, few_rows if args.emulate else many_rows, FLAT), (0, 1))
        wrong = sum(not row["right"] for row in checked)
        print(f"{len(checked)} cases checked against float64, {wrong} wrong", flush=True)
        timed = [] if args.check_only else timings(lib, *timed_arguments(args))
    record.update(host=platform.platform(), date=time.strftime("%Y-%m-%d"), checked=len(checked), wrong=wrong)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(
            json.dumps({**record, "checks": checked, "timings": timed}, indent=1) + "\n", encoding="utf-8"
        )
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
