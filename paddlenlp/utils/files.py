"""Files that are either whole or absent: atomic and durable writes, and hashes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any, Iterator, Union

PathLike = Union[str, "os.PathLike[str]"]
_BLOCK = 1 << 22


def fsync_file(path: PathLike) -> None:
    """Wait until the content of file `path` is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_folder(path: PathLike) -> None:
    """Wait until the names in folder `path` (creations, renames, removals) are on the disk."""
    fsync_file(path)


@contextlib.contextmanager
def atomic_path(path: PathLike) -> Iterator[Path]:
    """Context manager: a temporary path in the folder of `path`, renamed to `path` when the block succeeds.

    The file is synced before the rename and the folder after it, so after a crash `path` holds the old content or the
    new, whole. If the block raises, the temporary file is removed and `path` is left as it was.
    """
    target = Path(path)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        yield partial
        fsync_file(partial)
        os.replace(partial, target)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    fsync_folder(target.parent)


def atomic_write_text(path: PathLike, text: str) -> None:
    """Write `text` (UTF-8, line ends as given) to `path` atomically."""
    with atomic_path(path) as partial:
        partial.write_bytes(text.encode("utf-8"))


def atomic_write_json(path: PathLike, value: Any, indent: int = 2, sort_keys: bool = False) -> None:
    """Write `value` as JSON (UTF-8, one newline at the end) to `path` atomically."""
    atomic_write_text(path, json.dumps(value, indent=indent, sort_keys=sort_keys, ensure_ascii=False) + "\n")


def sha256_file(path: PathLike) -> str:
    """SHA-256 of the content of file `path`, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    block = memoryview(bytearray(_BLOCK))
    with open(path, "rb", buffering=0) as file:
        while size := file.readinto(block):
            digest.update(block[:size])
    return digest.hexdigest()
