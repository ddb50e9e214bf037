"""Settings of the process that make Paddle's CPU build several times faster, applied before Paddle is imported.

- MKL_DEBUG_CPU_TYPE=5: the MKL inside Paddle takes its SSE path on AMD processors; this selects its AVX2 path.
- mallopt: glibc gives large blocks back to the kernel at each free, and pays for the page faults of the next ones.
- FLAGS_use_stride_kernel=0: a transposed view costs more on a CPU than the copy it saves.
- OMP_WAIT_POLICY=PASSIVE: threads that wait for work sleep instead of taking the core from those that have some.
- OMP_NUM_THREADS: Paddle takes one thread where it is not set.

A variable that the user has set is left as it is.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import List

CPUINFO = Path("/proc/cpuinfo")

MALLOPT = (
    ("M_MMAP_MAX", -4, 0),
    ("M_TRIM_THRESHOLD", -1, 2**31 - 1),
    ("M_TOP_PAD", -2, 256 << 20),
    ("M_ARENA_MAX", -8, 1),
)
"""Name, number (malloc.h), value: blocks of any size come from one heap, which grows by 256 MiB and never shrinks."""

MALLOC_VARIABLES = ("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "LD_PRELOAD")
"""A user who sets one of these has chosen how memory is allocated."""


def apply_cpu_tuning() -> List[str]:
    """Set what is right on this machine.

    Returns:
        What was set, a line each; and a line for what comes too late because Paddle is imported already.
    """
    wanted = {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(_threads())}
    if runs_on_cpu("gpu"):
        wanted["FLAGS_use_stride_kernel"] = "0"
    if _is_amd_with_avx2():
        wanted["MKL_DEBUG_CPU_TYPE"] = "5"
    lines = _set_variables({name: value for name, value in wanted.items() if name not in os.environ})
    return lines + _tune_malloc()


def _set_variables(missing: dict) -> List[str]:
    if "paddle" in sys.modules:
        return [f"too late for {name}={value}: paddle is imported already" for name, value in missing.items()]
    os.environ.update(missing)
    return [f"{name}={value}" for name, value in missing.items()]


def _tune_malloc() -> List[str]:
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in MALLOC_VARIABLES):
        return []
    mallopt = ctypes.CDLL(None).mallopt
    done = [f"{name}={value}" for name, number, value in MALLOPT if mallopt(number, value)]
    return [f"mallopt {' '.join(done)}"] if done else []


def _threads() -> int:
    """This process's share of the cores it may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("PADDLE_LOCAL_SIZE") or 1))


def runs_on_cpu(place: str) -> bool:
    """Whether a run that asks for `place` ("cpu" or "gpu") computes on the CPU, as far as the installed build tells."""
    if place == "cpu":
        return True
    try:
        version("paddlepaddle-gpu")
    except PackageNotFoundError:
        return True
    return False


def _is_amd_with_avx2() -> bool:
    try:
        text = CPUINFO.read_text(errors="replace")
    except OSError:
        return False
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return "AuthenticAMD" in text and "avx2" in flags.split()
