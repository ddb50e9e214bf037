"""Memory, shared memory, processors and limits of this machine."""

from __future__ import annotations

import os
import resource
import shutil
from pathlib import Path

from paddlenlp.utils.machine import memory_of_host

from .finding import FAIL, OK, WARN, Finding

GIB = 1 << 30
SHARED = Path("/dev/shm")
PROCESS_BYTES = GIB // 2
"""What a process takes before it has a model: Paddle's libraries and its code."""

GOOD_SHARED = GIB
"""Of /dev/shm: NCCL and data loading workers exchange through it; Docker gives 64 MiB unless told otherwise."""

GOOD_FILES = 4096
FILES_PER_PEER = 4
FILES_OF_A_RUN = 256
"""Open files: connections to each other process, and all else."""


def memory(processes: int) -> Finding:
    """Whether host memory is enough for so many processes to start."""
    found = memory_of_host()
    if found is None:
        return Finding("memory", WARN, "this system does not tell", "See yourself that there is enough.")
    place = "the container's limit" if found.limited else "the machine's"
    text = f"{found.available / GIB:.1f} GiB available of {found.total / GIB:.1f} ({place}) for {_processes(processes)}"
    each = found.available / processes
    if each < PROCESS_BYTES:
        return Finding("memory", FAIL, text, "A process takes 0.5 GiB to start: end other programs or start fewer.")
    if each < 4 * PROCESS_BYTES:
        advice = "Enough to start, and for a small model: watch cpu_mem_used (--skip_memory_metrics false)."
        return Finding("memory", WARN, text, advice)
    return Finding("memory", OK, text)


def processors(processes: int) -> Finding:
    """Whether each process has a core."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    text = f"{cores} for {_processes(processes)}"
    if cores < processes:
        return Finding("processors", WARN, text, "The processes take turns: start fewer, or allow the job more cores.")
    return Finding("processors", OK, text)


def shared_memory() -> Finding:
    """Whether /dev/shm is there, can be written and is large enough."""
    name = "/dev/shm"
    if not SHARED.is_dir():
        return Finding(name, FAIL, "is not there", "Mount it: mount -t tmpfs -o size=16g tmpfs /dev/shm (as root).")
    if not os.access(SHARED, os.W_OK | os.X_OK):
        return Finding(name, FAIL, "can't be written", "chmod 1777 /dev/shm (as root).")
    total, _, free = shutil.disk_usage(SHARED)
    text = f"{free / GIB:.2f} GiB free of {total / GIB:.2f}"
    if free < GOOD_SHARED:
        advice = "Start the container with --shm-size 16g (or --ipc host), or remove old files there."
        return Finding(name, WARN, text, advice)
    return Finding(name, OK, text)


def open_files(ranks: int) -> Finding:
    """Whether a process may open enough files and connections for a job of so many ranks."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = FILES_OF_A_RUN + FILES_PER_PEER * ranks
    advice = f"ulimit -n {max(65536, needed)} before the start (the hard limit is {_limit(hard)})."
    if soft != resource.RLIM_INFINITY and soft < needed:
        return Finding("open files", FAIL, f"limit {soft}, and {ranks} ranks need about {needed}", advice)
    if soft != resource.RLIM_INFINITY and soft < GOOD_FILES:
        return Finding("open files", WARN, f"limit {soft}: little for many data files", advice)
    return Finding("open files", OK, f"limit {_limit(soft)}")


def _limit(value: int) -> str:
    return "none" if value == resource.RLIM_INFINITY else str(value)


def _processes(count: int) -> str:
    return f"{count} process{'es' * (count > 1)} here"
