"""Peak memory of create_pretraining_data.py for growing inputs: it must be flat.

    python benchmarks/data/prepare_memory.py [--megabytes 10 100 1000] [--workers 2] [--out result.json]

The figure is the sum of the peaks (VmHWM) of the process and of its workers, read every tenth of a second. Linux only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict

from generated import TOOL, write_text, write_tokenizer


def peak_of(command: list) -> Dict[str, float]:
    """Megabytes at the peak, of the first process and of all; seconds."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peaks: Dict[int, int] = {}
    while process.poll() is None:
        for pid in (process.pid, *children(process.pid)):
            peaks[pid] = max(peaks.get(pid, 0), high_water(pid))
        time.sleep(0.1)
    assert process.returncode == 0, command
    first = peaks[process.pid] / 1024
    return {
        "first_process_megabytes": round(first, 1),
        "all_megabytes": round(sum(peaks.values()) / 1024, 1),
        "seconds": round(time.perf_counter() - start, 1),
    }


def children(pid: int) -> list:
    """Process ids of the processes that `pid` started."""
    try:
        return [
            int(word)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for word in (task / "children").read_text().split()
        ]
    except OSError:
        return []


def high_water(pid: int) -> int:
    """VmHWM of a process in KiB; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", help="JSON file for the result")
    args = parser.parse_args()
    result: Dict[str, Any] = {"date": time.strftime("%F"), "workers": args.workers}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tokenizer(folder / "tokenizer")
        for size in args.megabytes:
            write_text(folder / "text.jsonl", size * 1_000_000)
            words = ["--tokenizer_name_or_path", folder / "tokenizer", "--input_path", folder / "text.jsonl"]
            words += ["--output_prefix", folder / "out", "--append_eos", "--workers", args.workers]
            words += ["--log_interval", 10**9]
            result[f"{size} MB"] = peak_of([sys.executable, str(TOOL), *map(str, words)])
            print(size, "MB", result[f"{size} MB"], flush=True)
    totals = [found["all_megabytes"] for found in result.values() if isinstance(found, dict)]
    result["largest_over_smallest_input"] = round(totals[-1] / totals[0], 3)
    print("peak for the largest input over that for the smallest:", result["largest_over_smallest_input"])
    if args.out:
        Path(args.out).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
