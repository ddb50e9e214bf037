"""The lines of a file in random order, in memory of a fixed size however large the file is."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import BinaryIO

import numpy as np

MEMORY = 256 << 20
_BUCKETS = 64


def shuffle_lines(source: Path, target: BinaryIO, seed: int, memory: int = MEMORY) -> None:
    """Write the lines of `source` to `target` in an order that depends on `seed` alone; all orders are equally likely.

    What does not fit into `memory` bytes is dealt out to files beside `source`, each line to one at random; each is
    then shuffled by itself, and they follow one another.
    """
    _shuffle(source, target, np.random.RandomState(seed), memory)


def _shuffle(source: Path, target: BinaryIO, rng: np.random.RandomState, memory: int) -> None:
    if source.stat().st_size <= memory:
        with open(source, "rb") as file:
            lines = file.readlines()
        if lines and not lines[-1].endswith(b"\n"):
            lines[-1] += b"\n"
        target.writelines(lines[place] for place in rng.permutation(len(lines)))
        return
    with tempfile.TemporaryDirectory(dir=source.parent, prefix=".shuffle.") as folder:
        buckets = [Path(folder) / str(number) for number in range(_BUCKETS)]
        _deal(source, buckets, rng)
        for bucket in buckets:
            # One line alone may be larger than the memory that is allowed: dealing it out again would not end.
            alone = bucket.stat().st_size * 2 > source.stat().st_size
            _shuffle(bucket, target, rng, bucket.stat().st_size if alone else memory)
            bucket.unlink()


def _deal(source: Path, buckets: list, rng: np.random.RandomState) -> None:
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(open(bucket, "wb")) for bucket in buckets]
        with open(source, "rb") as lines:
            for line in lines:
                files[rng.randint(len(files))].write(line if line.endswith(b"\n") else line + b"\n")


__all__ = ["MEMORY", "shuffle_lines"]
