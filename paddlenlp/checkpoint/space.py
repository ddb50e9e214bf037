"""How much room checkpoints need, and how much there is."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Mapping

from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.files import PathLike
from paddlenlp.utils.tensor_writer import tensor_bytes

_SPARE_BYTES = 1 << 22
"""Room for indexes, states and other small files."""

TensorGroups = Mapping[str, Mapping[str, Any]]
"""Stem ("model", "optimizer") -> name -> tensor."""


def checkpoint_bytes(tensors: TensorGroups) -> int:
    """Bytes that a checkpoint of these tensors takes on disk, at most."""
    return sum(tensor_bytes(value) for group in tensors.values() for value in group.values()) + _SPARE_BYTES


def check_free_space(output_dir: PathLike, needed: int) -> None:
    """Refuse to start writing what cannot fit.

    Raises:
        UsageError: the file system of `output_dir` has fewer than `needed` bytes free.
    """
    free = free_bytes(Path(output_dir))
    if free < needed:
        raise UsageError(
            f"{output_dir}: a checkpoint needs {needed:,} bytes, {free:,} are free. Free some space, choose another "
            "output_dir, or lower save_total_limit."
        )


def free_bytes(path: Path) -> int:
    """Bytes free where `path` is or will be."""
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    return shutil.disk_usage(there).free
