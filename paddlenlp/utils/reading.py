"""Reading chosen bytes of files: nothing else is read, nothing is mapped, so that memory holds what is asked for."""

from __future__ import annotations

import errno
import os
from typing import Iterable, List

import numpy as np

from paddlenlp.parallel.heartbeat import beat
from paddlenlp.utils.files import PathLike
from paddlenlp.utils.retries import retrying


class ReadCount:
    """Attributes:
    total: bytes that `read_runs` has read since the process began.
    """

    def __init__(self) -> None:
        self.total = 0


bytes_read = ReadCount()
"""Those of this process."""


def read_runs(path: PathLike, target: np.ndarray, offsets: Iterable[int], lengths: Iterable[int]) -> None:
    """Fill `target` (uint8, contiguous, as long as all runs) with runs of bytes of file `path`, one behind the other.

    What was read before a transient error is kept; the file is then opened anew.

    Raises:
        OSError: a read failed, also when tried again (`retrying`), or the file ends before a run does.
    """
    view = target.data
    pending = [[int(offset), int(length)] for offset, length in zip(offsets, lengths) if length]
    pending.reverse()

    def go_on() -> None:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            _read(descriptor, view, pending)
        finally:
            os.close(descriptor)

    retrying(go_on, path)


def _read(descriptor: int, view: memoryview, pending: List[List[int]]) -> None:
    """Read until nothing is `pending` ([offset, length] of each run, the first one last)."""
    at = len(view) - sum(length for _, length in pending)
    while pending:
        offset, length = run = pending[-1]
        count = os.preadv(descriptor, [view[at : at + length]], offset)
        if count == 0:
            raise OSError(errno.EIO, f"the file ends at byte {offset:,}, {length:,} more were expected")
        at += count
        bytes_read.total += count
        beat.progress()
        run[:] = offset + count, length - count
        if not run[1]:
            pending.pop()
