"""Where a token stands: rotary angles (arXiv:2104.09864)."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Dict, Mapping, Optional, Tuple

import numpy as np
import paddle
from paddle import Tensor

from paddlenlp.utils.errors import UsageError

from . import kernels
from .batch import Batch
from .frequencies import SCALINGS, check_scaling

MIN_ROWS = 128
"""Positions of the smallest table; longer ones double, so that generation does not make a table for each token."""


class Rotary:
    """Turns pairs of features of queries and keys by angles that grow with the position.

    Tables of angles are made once and shared by all layers that turn alike.

    Args:
        dim: how many features of a head turn, the first ones; the others stay as they are.
        base: `rope_theta`.
        scaling: `rope_scaling` of a configuration: None or {"rope_type": a key of SCALINGS, ...}; "type" is read too.
        max_length: `max_position_embeddings`; "dynamic" scaling acts on longer sequences only, and "longrope" acts
            otherwise on those longer than the original length. While generating with a cache, keys keep the angles they
            had when they were read, as in Hugging Face transformers.
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
        given = {name: x for name, x in options.items() if x is not None}
        values: Dict[str, Any] = {name: tuple(x) if isinstance(x, list) else x for name, x in given.items()}
        if max_length is not None:
            values["max_position_embeddings"] = max_length
        check_scaling(kind, values)
        self.dim, self.interleaved = dim, interleaved
        way = self._way = SCALINGS[kind]
        self.trained_length = values[way.longer_than] if way.longer_than else None
        taken = tuple((name, values[name]) for name in (*way.needed, *way.optional) if name in values)
        self._spec = (kind, dim, float(base), taken)

    def __call__(self, q: Tensor, k: Tensor, batch: Batch) -> Tuple[Tensor, Tensor]:
        """q [b, s, heads, d] and k [b, s, kv heads, d], turned by the positions of `batch`."""
        cos, sin = self.angles(batch)
        return self._turn(q, cos, sin), self._turn(k, cos, sin)

    def _turn(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        rest = x.shape[-1] - 2 * cos.shape[-1]
        if not rest:
            return kernels.rotate(x, cos, sin, self.interleaved)
        turning, rest_of_x = paddle.split(x, [2 * cos.shape[-1], rest], -1)
        return paddle.concat([kernels.rotate(turning, cos, sin, self.interleaved), rest_of_x], -1)

    def angles(self, batch: Batch) -> Tuple[Tensor, Tensor]:
        """Cosines and sines, float32 [b | 1, s, 1, dim/2]."""
        length = batch.opening if self._way.keeps and batch.opening is not None else batch.length
        stretched = self.trained_length is not None and length > self.trained_length
        rows = max(MIN_ROWS, 1 << (batch.length - 1).bit_length())
        table = _table(*self._spec, rows, length if stretched else 1)
        return table.rows(batch.start, batch.seq) if batch.positions is None else table.at(batch.positions)


class Rotary2D:
    """Turns one half of the features of a head by a first position and the other half by a second one.

    Args:
        dim: features of a head.
        base: of the angles; see `Rotary`.
    """

    def __init__(self, dim: int, base: float = 10000.0) -> None:
        self.dim, self.interleaved = dim, False
        self._half = Rotary(dim // 2, base)

    def __call__(self, q: Tensor, k: Tensor, batch: Batch) -> Tuple[Tensor, Tensor]:
        """q [b, s, heads, dim] and k [b, s, kv heads, dim], turned by the positions [b, 2, s] of `batch`.

        Raises:
            UsageError: positions are of another shape.
        """
        positions = batch.positions
        if positions is None or positions.ndim != 3 or positions.shape[1] != 2:
            found = "none" if positions is None else list(positions.shape)
            raise UsageError(f"position_ids must be [b, 2, s], two positions for each token; found {found}")
        (q1, q2), (k1, k2) = paddle.chunk(q, 2, -1), paddle.chunk(k, 2, -1)
        q1, k1 = self._half(q1, k1, batch._replace(positions=positions[:, 0]))
        q2, k2 = self._half(q2, k2, batch._replace(positions=positions[:, 1]))
        return paddle.concat([q1, q2], -1), paddle.concat([k1, k2], -1)


class _Table:
    """Cosines and sines of positions 0, 1, ... of one kind of Rotary, times `amplitude`."""

    def __init__(self, angles: np.ndarray, amplitude: float = 1.0) -> None:
        factor = np.float32(amplitude)
        self.cos, self.sin = paddle.to_tensor(np.cos(angles) * factor), paddle.to_tensor(np.sin(angles) * factor)
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
    way, options = SCALINGS[kind], dict(values)
    inverse = way.frequencies(dim, base, options, length)
    return _Table(np.arange(rows, dtype=np.float32)[:, None] * inverse[None], way.amplitude(options))
