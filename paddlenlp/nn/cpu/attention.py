"""Causal attention by blocks of queries: block i meets only the keys up to its own end."""

from __future__ import annotations

from functools import lru_cache
from itertools import islice
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import paddle
from paddle import Tensor
from paddle.autograd import PyLayer
from paddle.nn import functional as F

from paddlenlp.utils.pylayer import needed, note_frozen, save

from .. import plain
from ..documents import Documents
from . import threads

BLOCK = 128
"""Queries of a block. Of the s x s scores, s / BLOCK + 1 in 2 s / BLOCK are computed."""

KEPT_BYTES = 64 << 20
"""Probabilities up to this size are kept for the backward pass. Above it they are computed again there, so that memory
grows as s, not as s^2."""


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Optional[Tensor] = None,
    documents: Optional[Documents] = None,
    bias: Optional[Tensor] = None,
    slopes: Optional[np.ndarray] = None,
    scale: Optional[float] = None,
    window: Optional[int] = None,
    dropout: float = 0.0,
) -> Tensor:
    """See `kernels.attention`. Masks, biases, slopes, windows, dropout and cached keys are left to the plain one."""
    special = any(rule is not None for rule in (mask, bias, slopes, window)) or dropout or q.shape[1] != k.shape[1]
    if special or any(x.dtype != paddle.float32 for x in (q, k, v)):
        options: Dict[str, Any] = {"mask": mask, "documents": documents, "bias": bias, "slopes": slopes}
        options.update(scale=scale, window=window)
        return plain.attention(q, k, v, dropout=dropout, **options)
    return _CausalAttention.apply(q, k, v, q.shape[-1] ** -0.5 if scale is None else scale, documents)


class _CausalAttention(PyLayer):
    """Inside, heads are [b * hkv, heads that share a key head, s, d], and spread over the threads; with them go the
    `numbers` of their documents, [b * hkv, s]."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float, documents: Optional[Documents]) -> Tensor:
        note_frozen(ctx, q, k, v)
        (b, s, h, _), groups = q.shape, k.shape[2]
        keep = b * h * s * (s + BLOCK) * 2 <= KEPT_BYTES
        numbers = None if documents is None else documents.numbers.repeat_interleave(groups, 0)
        folded = [_fold(x, groups) for x in (q, k, v)]
        spans = _spans(b * groups)
        made = threads.run(
            lambda span: _forward([threads.cut(x, span) for x in folded], scale, keep, _cut(numbers, span)), spans
        )
        ctx.numbers, ctx.scale, ctx.batch, ctx.spans = numbers, scale, b, spans
        ctx.saved = [len(saved) for _, saved in made]
        save(ctx, *(x for _, saved in made for x in saved))
        return _unfold(_joined([out for out, _ in made]), b)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tuple[Any, ...]:
        saved = iter(ctx.saved_tensor())
        grad = _fold(grad, ctx.spans[-1][1] // ctx.batch)
        parts = [(span, list(islice(saved, count))) for span, count in zip(ctx.spans, ctx.saved)]
        made = threads.run(
            lambda part: _backward(threads.cut(grad, part[0]), part[1], ctx.scale, _cut(ctx.numbers, part[0])), parts
        )
        return needed(ctx, [_unfold(_joined(grads), ctx.batch) for grads in zip(*made)])


def _cut(numbers: Optional[Tensor], span: Tuple[int, int]) -> Optional[Tensor]:
    return None if numbers is None else threads.cut(numbers, span)


def _spans(heads: int) -> List[Tuple[int, int]]:
    """The key heads of each thread; all in one span, whose products use all threads, if they don't divide well."""
    even = heads % threads.count() == 0 or heads > 4 * threads.count()
    return threads.spans(heads) if even else [(0, heads)]


def _forward(folded: List[Tensor], scale: float, keep: bool, numbers: Optional[Tensor]) -> Tuple[Tensor, List[Tensor]]:
    """The output, and what `_backward` needs: keys, values, blocks of queries and, if `keep`, of probabilities."""
    q, k, v = folded
    k, v, out, queries, kept = k.squeeze(1), v.squeeze(1), [], [], []
    for start, end in _blocks(k.shape[1]):
        rows = paddle.scale(_stacked(q, start, end), scale)  # not in place: the slice may be a view of q
        p = _probabilities(rows, k[:, :end], end - start, numbers)
        out.append(_unstacked(paddle.matmul(p, v[:, :end]), end - start))
        queries.append(rows)
        kept += [p] if keep else []
    return _joined(out, 2), [k, v, *queries, *kept]


def _backward(
    grad: Tensor, saved: List[Tensor], scale: float, numbers: Optional[Tensor]
) -> Tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v."""
    k, v, *rest = saved
    blocks = _blocks(k.shape[1])
    queries, kept = rest[: len(blocks)], rest[len(blocks) :]
    grads_q, grads_k, grads_v = [], _Sums(), _Sums()
    for index in reversed(range(len(blocks))):
        start, end = blocks[index]
        rows, keys, values = queries[index], k[:, :end], v[:, :end]
        p = kept[index] if kept else _probabilities(rows, keys, end - start, numbers)
        g = _stacked(grad, start, end)
        grads_v.add(paddle.matmul(p, g, transpose_x=True))
        scores = paddle._C_ops.softmax_grad(p, paddle.matmul(g, values, transpose_y=True), -1)
        grads_k.add(paddle.matmul(scores, rows, transpose_x=True))
        grads_q.append(_unstacked(paddle.matmul(scores, keys).scale_(scale), end - start))
    return _joined(grads_q[::-1], 2), grads_k.whole().unsqueeze(1), grads_v.whole().unsqueeze(1)


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
        return _joined(self.parts, 1)


def _blocks(length: int) -> List[Tuple[int, int]]:
    return [(start, min(start + BLOCK, length)) for start in range(0, length, BLOCK)]


def _joined(parts: Sequence[Tensor], axis: int = 0) -> Tensor:
    return paddle.concat(parts, axis) if len(parts) > 1 else parts[0]


def _fold(x: Tensor, groups: int) -> Tensor:
    """[b, s, h, d] -> [b * groups, h / groups, s, d], in one piece of memory."""
    b, s, h, d = x.shape
    return x.transpose([0, 2, 1, 3]).reshape([b * groups, h // groups, s, d]).contiguous()


def _unfold(x: Tensor, batch: int) -> Tensor:
    """[b * groups, h / groups, s, d] -> [b, s, h, d]."""
    return x.reshape([batch, -1, *x.shape[2:]]).transpose([0, 2, 1, 3])


def _stacked(x: Tensor, start: int, end: int) -> Tensor:
    """A block of positions of all query heads of a key head as rows of one matrix: [n, heads * rows, d]."""
    return x[:, :, start:end].reshape([x.shape[0], -1, x.shape[-1]])


def _unstacked(x: Tensor, rows: int) -> Tensor:
    """[n, heads * rows, d] -> [n, heads, rows, d]."""
    return x.reshape([x.shape[0], -1, rows, x.shape[-1]])


def _probabilities(rows: Tensor, keys: Tensor, count: int, numbers: Optional[Tensor]) -> Tensor:
    """softmax(rows keys') of the last `count` positions, each seeing the keys of its document up to its own place."""
    length, heads = keys.shape[1], rows.shape[1] // count
    scores = paddle.matmul(rows, keys, transpose_y=True).add_(_mask(count, length, heads))
    if numbers is not None:
        same = Documents(numbers).same(slice(length - count, length), slice(length)).astype("float32")
        scores = scores.add_(((1 - same) * plain.MASKED).tile([1, heads, 1]))
    return F.softmax_(scores, -1)


@lru_cache(maxsize=64)
def _mask(count: int, length: int, repeat: int) -> Tensor:
    """[repeat * count, length]: 0 where the query in row i of `count` may look, else MASKED."""
    return paddle.triu(paddle.full([count, length], plain.MASKED), length - count + 1).tile([repeat, 1])
