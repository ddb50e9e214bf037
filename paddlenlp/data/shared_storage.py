"""Which processes see the same folder, found out with marker files, and which of them therefore builds the index there.

The first process of each machine writes a marker, and looks for those of the others once all have done so. What the
user says about it (`share_folder`) is only compared with what is found.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

from paddlenlp.data.index_cache import is_index_builder
from paddlenlp.utils.log import logger

Everyones = Callable[[Any], List[Any]]
"""Given what JSON can hold, what all ranks gave, in rank order: `parallel.objects.everyones`."""


def builds_index(folders: Sequence[str], share_folder: bool, everyones: Everyones) -> bool:
    """Whether this process builds the indices in `folders`: of those that see the same folder, the first of the first
    machine does. Every rank calls this.

    Where no marker can be written or found out about, it is as `share_folder` says.
    """
    leads = os.environ.get("PADDLE_RANK_IN_NODE", "0") == "0"
    key = f"{secrets.token_hex(8)}.machine" if leads else None
    keys: List[Optional[str]] = everyones(key)
    leaders = [rank for rank, other in enumerate(keys) if other]
    if len(leaders) == 1:
        return leads
    with contextlib.ExitStack() as markers:
        marked = [folder for folder in folders if key and _mark(folder, key, markers)]
        everyones(None)
        seen = {folder: _seen(folder, keys) for folder in marked}
        everyones(None)
    if key is None:
        return False
    if not seen:
        return is_index_builder(share_folder)
    rank = keys.index(key)
    _compare(seen, leaders, share_folder, rank)
    return any(min(ranks) == rank for ranks in seen.values())


def _mark(folder: str, key: str, markers: contextlib.ExitStack) -> bool:
    """Put a marker into `folder` until `markers` is closed; whether that worked."""
    marker = Path(folder, f".{key}")
    try:
        os.makedirs(folder, exist_ok=True)
        marker.touch()
    except OSError:
        return False
    markers.callback(_remove, marker)
    return True


def _remove(marker: Path) -> None:
    with contextlib.suppress(OSError):
        marker.unlink()


def _seen(folder: str, keys: Sequence[Optional[str]]) -> List[int]:
    """The ranks whose markers are there. This process has just written into the folder, so that the list is fresh."""
    there = set(os.listdir(folder))
    return [rank for rank, key in enumerate(keys) if key and f".{key}" in there]


def _compare(seen: Dict[str, List[int]], leaders: List[int], share_folder: bool, rank: int) -> None:
    """Say so where `share_folder` is wrong."""
    for folder, ranks in seen.items():
        if share_folder and ranks != leaders and rank == min(ranks):
            missing = ", ".join(str(other) for other in leaders if other not in ranks)
            logger.warning(
                f"share_folder is true, but {folder} of rank {rank} is not the folder that rank {missing} sees: each "
                "builds an index of its own. Set share_folder to false."
            )
        if not share_folder and len(ranks) > 1 and rank == min(ranks):
            others = ", ".join(str(other) for other in ranks if other != rank)
            logger.warning(
                f"share_folder is false, but rank {others} sees the same {folder} as rank {rank}: one index is built "
                f"for all of them, by rank {rank}. Set share_folder to true."
            )
