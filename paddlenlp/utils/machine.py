"""How much memory this machine, or the container on it, has left."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator, NamedTuple, Optional, Tuple

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
_FILES = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)
"""Limit and use of a container, and what of the use it gives up when asked, under cgroup 2 and 1."""


class Memory(NamedTuple):
    """In bytes; `limited` says that the container allows less than the machine has."""

    total: int
    available: int
    limited: bool = False


def memory_of_host() -> Optional[Memory]:
    """That of the machine or, where it allows less, the container; None where the system doesn't tell."""
    try:
        found = _table(PROC / "meminfo", ":")
    except OSError:
        return None
    memory = Memory(found["MemTotal"] << 10, found.get("MemAvailable", found["MemFree"]) << 10)
    for limit, used in _container():
        if limit < memory.total:
            memory = Memory(limit, min(memory.available, max(0, limit - used)), True)
    return memory


def _container() -> Iterator[Tuple[int, int]]:
    """Limit and use, where there is a limit."""
    for limit, used, statistics, cached in _FILES:
        try:
            words = [(CGROUPS / name).read_text(encoding="ascii").strip() for name in (limit, used)]
            given_up = _table(CGROUPS / statistics).get(cached, 0)
        except OSError:
            continue
        if all(word.isdigit() for word in words):
            yield int(words[0]), int(words[1]) - given_up


def _table(path: Path, after_name: str = "") -> dict:
    """Name -> number, of lines such as "MemTotal:  100 kB"."""
    rows = (line.split() for line in path.read_text(encoding="ascii").splitlines())
    return {row[0].rstrip(after_name or None): int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}
