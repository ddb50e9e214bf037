"""Shares of text files, for runs side by side: pieces of files that are cut at borders of records."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, List, Optional, Sequence

from paddlenlp.data.text_records import kind_of

DIVISIBLE = (".jsonl", ".txt")
"""Kinds of files that are cut, where they are not packed: a record can be found from any byte on."""


@dataclass(frozen=True)
class Piece:
    """Bytes `start` up to, not including, `stop` of file `path`; all of it by default."""

    path: Path
    start: int = 0
    stop: Optional[int] = None

    @property
    def size(self) -> int:
        """Bytes."""
        return (self.path.stat().st_size if self.stop is None else self.stop) - self.start

    def open(self) -> io.RawIOBase:
        """The piece as a file of its own."""
        return io.FileIO(self.path) if self.stop is None else _Range(self)

    def __str__(self) -> str:
        return f"{self.path} (from byte {self.start:,})" if self.start else str(self.path)


class _Range(io.RawIOBase):
    """A part of a file; positions count from its start."""

    def __init__(self, piece: Piece) -> None:
        self._file = io.FileIO(piece.path)
        self._start, self._size = piece.start, piece.size
        self._file.seek(self._start)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        return self._file.readinto(memoryview(target)[: max(0, self._size - self.tell())]) or 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.tell(), os.SEEK_END: self._size}[whence]
        return self._file.seek(self._start + base + offset) - self._start

    def tell(self) -> int:
        return self._file.tell() - self._start

    def close(self) -> None:
        self._file.close()
        super().close()


def share_of(files: Sequence[Path], number: int, count: int, separator: str = "") -> List[Piece]:
    """Share `number` (1 to `count`) of `files`, of about as many bytes as the others.

    All shares one after another are the records of the files in order. Unpacked .jsonl and .txt files are cut between
    two records; other files belong as a whole to one share, so that a share can be empty.

    Args:
        separator: the line between two records of a .txt file.
    """
    if count == 1:
        return [Piece(path) for path in files]
    sizes = [path.stat().st_size for path in files]
    total, before, found = sum(sizes), 0, []
    low, high = (number - 1) * total // count, number * total // count
    for path, size in zip(files, sizes):
        if path.suffix in DIVISIBLE and size:
            start, stop = (_border(path, min(max(place - before, 0), size), size, separator) for place in (low, high))
            if start < stop:
                found.append(Piece(path) if (start, stop) == (0, size) else Piece(path, start, stop))
        elif low <= before + size // 2 < high or (before + size // 2 >= total and number == count):
            found.append(Piece(path))
        before += size
    return found


def _border(path: Path, place: int, size: int, separator: str) -> int:
    """Where the first record starts of which it is known that it is not begun before byte `place`."""
    if place in (0, size):
        return place
    with open(path, "rb") as file:
        file.seek(place - 1)
        file.readline()  # the rest of a line, or the end of one
        if kind_of(path) == ".txt":
            while (line := file.readline()) and line.strip() != separator.encode():
                pass
        return file.tell()


__all__ = ["DIVISIBLE", "Piece", "share_of"]
