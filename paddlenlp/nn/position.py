"""Where a token stands: rotary angles (arXiv:2104.09864)."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Mapping, Optional, Tuple

import numpy as np
import paddle
from paddle import Tensor

from . import kernels
from .batch import Batch
from .frequencies import SCALINGS, check_scaling

MIN_ROWS = 128
"""Positions of the smallest table; longer ones double, so that generation does not make a table for each token."""


class Rotary:
    """Turns pairs of features of queries and keys by angles that grow with the position.

    Tables of angles are made once and shared by all layers that turn alike.

    Args:
        dim: features of a head.
        base: `rope_theta`.
        scaling: `rope_scaling` of a configuration: None or {"rope_type": a key of SCALINGS, ...}; "type" is read too.
        max_length: `max_position_embeddings`; "dynamic" scaling acts on longer sequences only. While generating with a
            cache, keys keep the angles they had when they were read, as in Hugging Face transformers.
        interleaved: pairs are (2i, 2i + 1) instead of (i, i + dim/2).

    Raises:
        UsageError: the type of scaling is not known, or a value it needs is missing.
    """

    def __init__(
        self,
        dim: int,
        base: float = 10000.0,
        scaling: Optional[Mapping[str, Any]] = None,
        max_length: Optional[int] = None,
        interleaved: bool = False,
    ) -> None:
        options = dict(scaling or {})
        kind = options.get("rope_type", options.get("type", "default"))
        values = {name: value for name, value in options.items() if isinstance(value, (int, float))}
        if max_length is not None:
            values["max_position_embeddings"] = max_length
        check_scaling(kind, values)
        self.interleaved = interleaved
        self.trained_length = max_length if kind == "dynamic" else None
        needed = tuple((name, values[name]) for name in SCALINGS[kind][1])
        self._spec = (kind, dim, float(base), needed)

    def __call__(self, q: Tensor, k: Tensor, batch: Batch) -> Tuple[Tensor, Tensor]:
        """q [b, s, heads, dim] and k [b, s, kv heads, dim], turned by the positions of `batch`."""
        cos, sin = self.angles(batch)
        return kernels.rotate(q, cos, sin, self.interleaved), kernels.rotate(k, cos, sin, self.interleaved)

    def angles(self, batch: Batch) -> Tuple[Tensor, Tensor]:
        """Cosines and sines, float32 [b | 1, s, 1, dim/2]."""
        stretched = self.trained_length is not None and batch.length > self.trained_length
        rows = max(MIN_ROWS, 1 << (batch.length - 1).bit_length())
        table = _table(*self._spec, rows, batch.length if stretched else 1)
        return table.rows(batch.start, batch.seq) if batch.positions is None else table.at(batch.positions)


class _Table:
    """Cosines and sines of positions 0, 1, ... of one kind of Rotary."""

    def __init__(self, angles: np.ndarray) -> None:
        self.cos, self.sin = paddle.to_tensor(np.cos(angles)), paddle.to_tensor(np.sin(angles))
        self._last: Tuple[Any, Any] = (None, None)

    def rows(self, start: int, count: int) -> Tuple[Tensor, Tensor]:
        """[1, count, 1, dim/2] of consecutive positions; the last answer is kept, since every layer asks the same."""
        if self._last[0] != (start, count):
            span = slice(start, start + count)
            self._last = ((start, count), tuple(t[span].unsqueeze([0, 2]) for t in (self.cos, self.sin)))
        return self._last[1]

    def at(self, positions: Tensor) -> Tuple[Tensor, Tensor]:
        """[b, s, 1, dim/2] of positions [b, s]."""
        return self.cos[positions].unsqueeze(2), self.sin[positions].unsqueeze(2)


@lru_cache(maxsize=16)
def _table(kind: str, dim: int, base: float, values: tuple, rows: int, length: int) -> _Table:
    """The table of `rows` positions of a sequence of `length` tokens."""
    inverse = SCALINGS[kind][0](dim, base, dict(values), length)
    return _Table(np.arange(rows, dtype=np.float32)[:, None] * inverse[None])
