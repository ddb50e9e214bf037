"""Files that grow while a dataset is made: what was synced can be found again after a kill, and checked."""

from __future__ import annotations

import hashlib
import os
from array import array
from pathlib import Path
from typing import IO, Any, Dict, Iterator, Optional, Union

import numpy as np

_BLOCK = 1 << 20
_HELD = 1 << 14
_READ = 1 << 17


class PartsUnusable(ValueError):
    """What an earlier run left cannot be used; the message says why."""


class GrowingFile:
    """A file of equal items that is only added to; knows the SHA-256 of what it holds.

    Args:
        path: the file.
        dtype: of the items.
        state: what `sync` returned in an earlier run. The file is cut back to it; None begins an empty file.

    Raises:
        PartsUnusable: the file does not hold what the state says.
    """

    def __init__(self, path: Path, dtype: np.typing.DTypeLike, state: Optional[Dict[str, Any]] = None) -> None:
        self.path = path
        self.dtype = np.dtype(dtype)
        self.count = 0
        self._digest = hashlib.sha256()
        self._held = array({"i4": "i", "i8": "q"}.get(self.dtype.str[1:], "B"))
        if state is None:
            self._file: IO[bytes] = open(path, "wb", buffering=_BLOCK)  # noqa: SIM115
            return
        self.count = state["count"]
        try:
            self._file = open(path, "r+b", buffering=_BLOCK)  # noqa: SIM115
        except FileNotFoundError:
            raise PartsUnusable(f"{path} is missing") from None
        try:
            self._take_up(state["sha256"])
        except PartsUnusable:
            self._file.close()
            raise

    def _take_up(self, expected: str) -> None:
        left = self.count * self.dtype.itemsize
        while left:
            block = self._file.read(min(left, _BLOCK))
            if not block:
                raise PartsUnusable(f"{self.path} is {left:,} bytes too short")
            self._digest.update(block)
            left -= len(block)
        if self.sha256 != expected:
            raise PartsUnusable(f"{self.path} holds other bytes than were written")
        self._file.seek(self.count * self.dtype.itemsize)
        self._file.truncate()

    @property
    def sha256(self) -> str:
        """Of all items added so far, those still held back by `append_one` left out."""
        return self._digest.hexdigest()

    def append(self, values: Union[np.ndarray, bytes]) -> None:
        """Add many items: an array of them, or their bytes."""
        if self._held:
            self._write_held()
        raw = values if isinstance(values, bytes) else np.ascontiguousarray(values, self.dtype).view(np.uint8).data
        self._write(raw, len(raw) // self.dtype.itemsize)

    def append_one(self, value: int) -> None:
        """Add one integer (to a file of int32 or int64); a few thousand are held back before they are written."""
        self._held.append(value)
        if len(self._held) >= _HELD:
            self._write_held()

    def _write_held(self) -> None:
        held, self._held = self._held, array(self._held.typecode)
        self._write(np.asarray(held, self.dtype).view(np.uint8).data, len(held))

    def _write(self, raw: Any, count: int) -> None:
        if count:
            self._file.write(raw)
            self._digest.update(raw)
            self.count += count

    def flush(self) -> None:
        """Give everything to the system, so that others can read it."""
        if self._held:
            self._write_held()
        self._file.flush()

    def sync(self) -> Dict[str, Any]:
        """Wait until everything is on the disk; the state from which a later run can go on."""
        self.flush()
        os.fsync(self._file.fileno())
        return {"count": self.count, "sha256": self.sha256}

    def close(self) -> None:
        """Close the file; what is held back may be lost."""
        self._file.close()

    def blocks(self) -> Iterator[np.ndarray]:
        """All items in order, some thousands at a time."""
        self.flush()
        with open(self.path, "rb") as file:
            while block := file.read(_READ):
                yield np.frombuffer(block, self.dtype)


__all__ = ["GrowingFile", "PartsUnusable"]
