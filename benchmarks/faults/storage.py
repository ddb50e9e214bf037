"""Lets writes of a tiny run fail, one system call after the other, and looks at what is left and how the run goes on.

    python benchmarks/faults/storage.py [--every N]

A run of run_pretrain.py (index of the samples, two checkpoints, metrics, VisualDL, the model at the end, results) makes
some hundred calls that write: open, write, fsync, rename, mkdir, remove ... Each in turn fails, with each of: ENOSPC,
EDQUOT, EROFS (all three from then on), EIO (once), under save_failure_policy stop or continue. After each run all
checkpoints must be whole, none must be lost that was there, and the same command must go on to the same bits. Then a
disk of 20 MB fills up. Linux on x86-64; the failures are made by `tests/faults/syscalls.py`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List

HERE = Path(__file__).resolve().parent
FAULTS = HERE.parent.parent / "tests/faults"
sys.path[:0] = [str(HERE), str(FAULTS)]

from results import write  # noqa: E402
from test_storage import SMALL_DISK, TOLD, work  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--every", type=int, default=1, help="Try only every N-th call (default 1).")
    every = parser.parse_args().every
    began = time.time()
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None  # what takes time on a disk is to sync
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        top = Path(folder)
        (top / "small").mkdir()
        found = work(top, "every_call", step=every, first=0)
        mount = f'mount -t tmpfs -o size=20m none {top}/small && exec "$@"'
        disk = work(top, "full_disk", [*SMALL_DISK, mount, "sh"], out=f"{top}/small")
    wrong = problems(found) + small_disk_problems(disk)
    return report(found, wrong, time.time() - began)


def problems(found: Dict[str, Any]) -> List[str]:
    """What was not as promised."""
    wrong = []
    for run in found["runs"]:
        reasons = [
            *run["damaged"],
            *["it ended without a word"] * (run["end"] != "done" and not TOLD.match(run["message"])),
            *["the same command did not go on"] * (run["again"]["end"] != "done"),
            *["other bits"] * (run["digest"] != found["whole"]),
            *["no checkpoint is left"] * (late(run) and not {"checkpoint-1", "checkpoint-2"} & set(run["left"])),
        ]
        wrong += [f"call {run['at']}, {run['kind']}, {run['save_failure_policy']}: {reason}" for reason in reasons]
    return wrong


def late(run: Dict[str, Any]) -> bool:
    """Whether it failed while the second checkpoint was written."""
    return bool(run["failed"]) and "checkpoint-2.partial" in run["failed"][0]


def small_disk_problems(disk: Dict[str, Any]) -> List[str]:
    """The same for the disk of 20 MB."""
    ends = {"room again": "done", "continue": "error", "stop": "error"}
    return [
        f"20 MB disk, {name}: {disk[name]}"
        for name, end in ends.items()
        if disk[name]["end"] != end or disk[name]["damaged"] or disk[name]["digest"] != disk["whole"]
    ]


def report(found: Dict[str, Any], wrong: List[str], seconds: float) -> int:
    """Write the result; the exit code."""
    runs = [run for run in found["runs"] if run["failed"]]
    ended = sum(run["end"] == "error" for run in runs)
    figures = {
        "calls_of_a_run": found["calls"],
        "runs": len(runs),
        "went_on": len(runs) - ended,
        "ended_with_a_message": ended,
        "seconds": round(seconds),
        "wrong": wrong[:50],
    }
    disk = [text for text in wrong if text.startswith("20 MB disk")]
    good = len(runs) - len({text.partition(":")[0] for text in wrong if text not in disk})
    en = f"{good} of {len(runs)} runs in which a write failed and {3 - len(disk)} of 3 on a 20 MB disk that fills up"
    zh = f"有一次写入失败的 {len(runs)} 次运行中 {good} 次；在被写满的 20 MB 磁盘上 3 次中 {3 - len(disk)} 次"
    write("storage", not wrong, figures, en, zh)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
