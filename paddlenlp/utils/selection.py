"""Which runs of elements of a stored tensor make up a part of it."""

from __future__ import annotations

from math import prod
from typing import Sequence, Tuple

import numpy as np

Spans = Sequence[Sequence[Tuple[int, int]]]
"""A box of a tensor: for each axis the ranges [start, stop) taken, joined in that order."""


def row_elements(spans: Spans) -> int:
    """Elements of one row, along the first axis, of a box."""
    return prod(sum(stop - start for start, stop in axis) for axis in spans[1:])


def runs_of(shape: Sequence[int], spans: Spans, start: int, stop: int) -> Tuple[np.ndarray, np.ndarray]:
    """The runs of the flattened tensor of this `shape` that make up elements [start, stop) of its flattened box.

    Returns:
        First element and length of each run (int64), in the order of the box; neighbours are joined.
    """
    if not shape:
        return np.zeros(1, np.int64), np.ones(1, np.int64)
    cut = max((axis for axis, size in enumerate(shape) if list(spans[axis]) != [(0, size)]), default=0)
    inner = prod(shape[cut + 1 :])
    if cut == 0 and len(spans[0]) == 1:  # one run, as most often
        return np.array([spans[0][0][0] * inner + start]), np.array([stop - start])
    ranges = np.array([(a * inner, b * inner) for a, b in spans[cut]], np.int64).reshape(-1, 2)
    row = int((ranges[:, 1] - ranges[:, 0]).sum())
    first, last = start // row, -(-stop // row)
    rows = _rows(shape, spans, cut, first, last)
    starts = (rows[:, None] * (shape[cut] * inner) + ranges[:, 0]).reshape(-1)
    lengths = np.tile(ranges[:, 1] - ranges[:, 0], len(rows))
    return _joined(*_clipped(starts, lengths, start - first * row, stop - first * row))


def _rows(shape: Sequence[int], spans: Spans, cut: int, first: int, last: int) -> np.ndarray:
    """Numbers [first, last) of the box's rows along the axes before `cut`, as numbers of rows of the tensor."""
    numbers = np.arange(first, last)
    found, weight = np.zeros_like(numbers), 1
    for axis in reversed(range(cut)):
        places = np.concatenate([np.arange(a, b) for a, b in spans[axis]])
        numbers, place = np.divmod(numbers, len(places))
        found += places[place] * weight
        weight *= shape[axis]
    return found


def _clipped(starts: np.ndarray, lengths: np.ndarray, start: int, stop: int) -> Tuple[np.ndarray, np.ndarray]:
    """Of runs that lie one behind the other, what falls on [start, stop)."""
    ends = np.cumsum(lengths)
    skipped = np.clip(start - (ends - lengths), 0, lengths)
    kept = np.clip(stop - (ends - lengths), 0, lengths) - skipped
    return (starts + skipped)[kept > 0], kept[kept > 0]


def _joined(starts: np.ndarray, lengths: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    begins = np.concatenate([[True], starts[1:] != starts[:-1] + lengths[:-1]])
    return starts[begins], np.add.reduceat(lengths, np.flatnonzero(begins))
