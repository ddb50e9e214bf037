"""Causal attention by blocks of queries: block i meets only the keys up to its own end."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, List, Optional, Tuple

import paddle
from paddle import Tensor
from paddle.autograd import PyLayer
from paddle.nn import functional as F

from .. import plain

BLOCK = 128
"""Queries of a block. Of the s x s scores, s / BLOCK + 1 in 2 s / BLOCK are computed."""

KEPT_BYTES = 64 << 20
"""Probabilities up to this size are kept for the backward pass; above it they are computed again, so that memory grows as s, not s^2."""


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Optional[Tensor] = None,
    bias: Optional[Tensor] = None,
    scale: Optional[float] = None,
    window: Optional[int] = None,
    dropout: float = 0.0,
) -> Tensor:
    """See `kernels.attention`. What has a mask, bias, window, dropout or cached keys is left to the plain version."""
    special = mask is not None or bias is not None or window is not None or dropout or q.shape[1] != k.shape[1]
    if special or any(x.dtype != paddle.float32 for x in (q, k, v)):
        return plain.attention(q, k, v, mask=mask, bias=bias, scale=scale, window=window, dropout=dropout)
    return _CausalAttention.apply(q, k, v, q.shape[-1] ** -0.5 if scale is None else scale)


class _CausalAttention(PyLayer):
    """Query heads that share a key head are stacked as rows of one matrix: [b * hkv, group * rows, d]."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        b, s, h, _ = q.shape
        groups = k.shape[2]
        keep = b * h * s * (s + BLOCK) * 2 <= KEPT_BYTES
        k, v, out, queries, kept = _fold(k, groups), _fold(v, groups), [], [], []
        for start, end in _blocks(s):
            rows = _fold(q[:, start:end], groups).scale_(scale)
            p = _probabilities(rows, k[:, :end], end - start)
            out.append(_unfold(paddle.matmul(p, v[:, :end]), b, end - start))
            queries.append(rows)
            kept += [p] if keep else []
        ctx.scale, ctx.batch = scale, b
        ctx.save_for_backward(k, v, *queries, *kept)
        return paddle.concat(out, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
        k, v, *rest = ctx.saved_tensor()
        spans = _blocks(k.shape[1])
        queries, kept = rest[: len(spans)], rest[len(spans) :]
        grads_q, grads_k, grads_v = [], _Sums(), _Sums()
        for index in reversed(range(len(spans))):
            start, end = spans[index]
            rows, keys, values = queries[index], k[:, :end], v[:, :end]
            p = kept[index] if kept else _probabilities(rows, keys, end - start)
            g = _fold(grad[:, start:end], k.shape[0] // ctx.batch)
            grads_v.add(paddle.matmul(p, g, transpose_x=True))
            scores = paddle._C_ops.softmax_grad(p, paddle.matmul(g, values, transpose_y=True), -1)
            grads_k.add(paddle.matmul(scores, rows, transpose_x=True))
            grads_q.append(_unfold(paddle.matmul(scores, keys).scale_(ctx.scale), ctx.batch, end - start))
        return paddle.concat(grads_q[::-1], 1), _unfold(grads_k.whole(), ctx.batch), _unfold(grads_v.whole(), ctx.batch)


class _Sums:
    """Sum of [n, length, d] whose lengths fall from one to the next by whole blocks."""

    def __init__(self) -> None:
        self.parts: List[Tensor] = []

    def add(self, x: Tensor) -> None:
        ends = [end - start for start, end in _blocks(x.shape[1])]
        parts = paddle.split(x, ends, 1) if len(ends) > 1 else [x]
        if self.parts:
            for mine, more in zip(self.parts, parts):
                mine.add_(more)
        else:
            self.parts = parts

    def whole(self) -> Tensor:
        return paddle.concat(self.parts, 1)


def _blocks(length: int) -> List[Tuple[int, int]]:
    return [(start, min(start + BLOCK, length)) for start in range(0, length, BLOCK)]


def _fold(x: Tensor, groups: int) -> Tensor:
    """[b, rows, h, d] -> [b * groups, h / groups * rows, d]."""
    b, rows, h, d = x.shape
    if h == groups:
        return x.transpose([0, 2, 1, 3]).reshape([b * h, rows, d])
    return x.reshape([b, rows, groups, h // groups, d]).transpose([0, 2, 3, 1, 4]).reshape([b * groups, -1, d])


def _unfold(x: Tensor, batch: int, rows: Optional[int] = None) -> Tensor:
    """[b * groups, h / groups * rows, d] -> [b, rows, h, d]."""
    rows = x.shape[1] if rows is None else rows
    return x.reshape([batch, -1, rows, x.shape[-1]]).transpose([0, 2, 1, 3])


def _probabilities(rows: Tensor, keys: Tensor, count: int) -> Tensor:
    """softmax(rows keys') of the last `count` positions, each seeing the keys up to its own place."""
    scores = paddle.matmul(rows, keys, transpose_y=True)
    return F.softmax_(scores.add_(_mask(count, keys.shape[1], rows.shape[1] // count)), -1)


@lru_cache(maxsize=64)
def _mask(count: int, length: int, repeat: int) -> Tensor:
    """[repeat * count, length]: 0 where the query in row i of `count` may look, else MASKED."""
    return paddle.triu(paddle.full([count, length], plain.MASKED), length - count + 1).tile([repeat, 1])
