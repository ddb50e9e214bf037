"""Files that are either whole or absent: atomic and durable writes, and hashes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any, Callable, Iterator, Union

from paddlenlp.parallel.heartbeat import beat
from paddlenlp.utils.processes import has_ended, process_name

PathLike = Union[str, "os.PathLike[str]"]
_BLOCK = 1 << 22
_PARTIAL = re.compile(r"\..+\.by-(.+-\d+)\.partial")


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
    partial = target.with_name(f".{target.name}.by-{process_name()}.partial")
    try:
        yield partial
        fsync_file(partial)
        os.replace(partial, target)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    fsync_folder(target.parent)


def remove_partial_files(folder: PathLike, dead: Callable[[str], object] = has_ended) -> None:
    """Remove what `atomic_path` has left in `folder` of writes in the middle of which a process ended.

    Args:
        dead: whether it has, given its `process_name`.
    """
    for path in Path(folder).glob(".*.partial"):
        found = _PARTIAL.fullmatch(path.name)
        if found and dead(found.group(1)):
            with contextlib.suppress(OSError):
                path.unlink()


def atomic_write_text(path: PathLike, text: str) -> None:
    """Write `text` (UTF-8, line ends as given) to `path` atomically."""
    with atomic_path(path) as partial:
        partial.write_bytes(text.encode("utf-8"))


def atomic_write_json(path: PathLike, value: Any, indent: int = 2, sort_keys: bool = False) -> None:
    """Write `value` as JSON (UTF-8, one newline at the end) to `path` atomically."""
    atomic_write_text(path, json.dumps(value, indent=indent, sort_keys=sort_keys, ensure_ascii=False) + "\n")


def parse_json(text: Union[str, bytes]) -> Any:
    """The value of JSON text that comes from a file.

    Raises:
        ValueError: it is not JSON, or nested so deeply that no program wrote it for use.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("values are nested too deeply") from None


def sha256_file(path: PathLike) -> str:
    """SHA-256 of the content of file `path`, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    block = memoryview(bytearray(_BLOCK))
    with open(path, "rb", buffering=0) as file:
        while size := file.readinto(block):
            digest.update(block[:size])
            beat.progress()
    return digest.hexdigest()
