"""Attention of a block of queries over a block of keys of the same rows, and how blocks add up to the whole.

Heads are [b, hkv, g, s, d] for queries, with g query heads that read the same key head, and [b, hkv, s, d] for keys.
Softmaxes are taken in float32: each block gives its result and the logarithm of the sum of its exponentials (lse), from
which results of several blocks of keys are joined (online softmax, arXiv:2205.14135) and probabilities made again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import paddle
from paddle import Tensor

from .documents import Documents
from .plain import MASKED

TILE = 1024
"""Tokens of a block: memory grows as TILE^2, not as the square of the sequence."""


class Span(NamedTuple):
    """Consecutive tokens of a row.

    Attributes:
        local: where they begin in what a rank holds.
        place: where they begin in the whole row.
        size: how many they are.
    """

    local: int
    place: int
    size: int

    @property
    def last(self) -> int:
        """The place of the last one."""
        return self.place + self.size - 1

    def of(self, x: Tensor) -> Tensor:
        """These tokens of `x` [..., s, d], which a rank holds."""
        return x[..., self.local : self.local + self.size, :]


def spans(chunks: Sequence[int], size: int) -> List[Span]:
    """What a rank holds that has these chunks, of `size` tokens each, in spans of at most TILE tokens."""
    return [
        Span(number * size + start, chunk * size + start, min(TILE, size - start))
        for number, chunk in enumerate(chunks)
        for start in range(0, size, TILE)
    ]


@dataclass(frozen=True)
class Rule:
    """Which keys a query sees, and what its scores are; all by places in the whole row.

    Attributes:
        scale: factor of q k'.
        window: a query sees only keys less than `window` places back.
        slopes: float32 [h], of linear biases: scores rise by slope * (place of the key - place of the query).
        mask: [b | 1, s] on top of the causal rule, or [b | 1, h | 1, s, s] in place of it, as in `kernels.attention`.
        documents: [b, s]; a query sees only keys of its own one.
    """

    scale: float
    window: Optional[int] = None
    slopes: Optional[np.ndarray] = None
    mask: Optional[Tensor] = None
    documents: Optional[Documents] = None

    @property
    def causal(self) -> bool:
        """Whether a query sees no later keys."""
        return self.mask is None or self.mask.ndim == 2

    def meet(self, queries: Span, keys: Span) -> bool:
        """Whether, but for the mask and documents, any of the queries sees any of the keys."""
        seen = keys.place <= queries.last or not self.causal
        return seen and (self.window is None or queries.place - keys.last < self.window)

    def scores(self, q: Tensor, k: Tensor, queries: Span, keys: Span) -> Tuple[Tensor, Optional[Tensor]]:
        """Scores, float32 [b, hkv, g, queries, keys], and which of them count; None if all do."""
        groups, heads = q.shape[1:3]
        scores = paddle.matmul(_rows(q), k, transpose_y=True).astype("float32")
        scores = scores.reshape([*q.shape[:-1], keys.size]) * self.scale
        if self.slopes is not None:
            slopes = paddle.to_tensor(self.slopes, "float32").reshape([1, groups, heads, 1, 1])
            scores = scores - slopes * _distance(queries, keys).astype("float32")
        allowed = self._allowed(queries, keys, groups)
        if allowed is None:
            return scores, None
        return paddle.where(allowed, scores, paddle.full_like(scores, MASKED)), allowed.astype("float32")

    def _allowed(self, queries: Span, keys: Span, groups: int) -> Optional[Tensor]:
        """Boolean, broadcastable to the scores; None if all keys are seen."""
        distance, allowed = _distance(queries, keys), []
        if self.causal and keys.last > queries.place:
            allowed.append(distance >= 0)
        if self.window is not None and queries.last - keys.place >= self.window:
            allowed.append(distance < self.window)
        if self.mask is not None:
            allowed.append(self._masked(self.mask.astype("bool"), queries, keys, groups))
        if self.documents is not None:
            same = self.documents.same(*(slice(span.place, span.last + 1) for span in (queries, keys)))
            allowed.append(same.unsqueeze([1, 2]))
        for more in allowed[1:]:
            allowed[0] = allowed[0] & more
        return allowed[0] if allowed else None

    def _masked(self, mask: Tensor, queries: Span, keys: Span, groups: int) -> Tensor:
        seen = mask[..., keys.place : keys.last + 1]
        if mask.ndim == 2:
            return seen.unsqueeze([1, 2, 3])
        seen, heads = seen[:, :, queries.place : queries.last + 1], mask.shape[1]
        return seen.unsqueeze(1) if heads == 1 else seen.reshape([seen.shape[0], groups, -1, *seen.shape[2:]])


def _distance(queries: Span, keys: Span) -> Tensor:
    """How far each key is before each query: int64 [queries, keys]."""
    places = paddle.arange(queries.place, queries.last + 1).unsqueeze(1)
    return places - paddle.arange(keys.place, keys.last + 1).unsqueeze(0)


def block_attention(q: Tensor, k: Tensor, v: Tensor, rule: Rule, queries: Span, keys: Span) -> Tuple[Tensor, Tensor]:
    """Attention of `queries` [b, hkv, g, s, d] over `keys` alone.

    Returns:
        (float32 [b, hkv, g, s, dv], lse: float32 [b, hkv, g, s, 1]). A query that sees no key has zeros and MASKED.
    """
    scores, allowed = rule.scores(q, k, queries, keys)
    top = scores.max(-1, keepdim=True)
    p = paddle.exp(scores - top)
    if allowed is not None:
        p = p * allowed
    total = p.sum(-1, keepdim=True)
    total = total + (total == 0).astype("float32")  # without any key top is MASKED, and lse becomes that
    return _sums(p / total, v), top + paddle.log(total)


class Seen(NamedTuple):
    """Queries and what came of them over all keys: what the gradients of each block follow from.

    Attributes:
        queries: [b, hkv, g, s, d].
        grad: of the results, [b, hkv, g, s, dv].
        delta: sum over the features of grad times result, float32 [b, hkv, g, s, 1].
        lse: over all keys, float32 [b, hkv, g, s, 1].
    """

    queries: Tensor
    grad: Tensor
    delta: Tensor
    lse: Tensor

    def of(self, span: Span) -> Seen:
        """That of some of the queries."""
        return Seen(*(span.of(x) for x in self))


def block_gradients(
    seen: Seen, k: Tensor, v: Tensor, rule: Rule, queries: Span, keys: Span
) -> Tuple[Tensor, Tensor, Tensor]:
    """What one block adds to the gradients of its queries, keys and values, float32 (arXiv:2205.14135, appendix B)."""
    scores, allowed = rule.scores(seen.queries, k, queries, keys)
    p = paddle.exp(scores - seen.lse)
    if allowed is not None:
        p = p * allowed
    q, grad = _rows(seen.queries), _rows(seen.grad)
    products = paddle.matmul(grad, v, transpose_y=True).astype("float32").reshape(p.shape)
    of_scores = (p * (products - seen.delta) * rule.scale).astype(q.dtype)
    of_keys = paddle.matmul(_rows(of_scores), q, transpose_x=True).astype("float32")
    of_values = paddle.matmul(_rows(p.astype(v.dtype)), grad, transpose_x=True).astype("float32")
    return _sums(of_scores, k), of_keys, of_values


def _rows(x: Tensor) -> Tensor:
    """[b, hkv, g, s, n] as one matrix for each key head: [b, hkv, g * s, n]."""
    return x.reshape([*x.shape[:2], -1, x.shape[-1]])


def _sums(weights: Tensor, values: Tensor) -> Tensor:
    """weights [b, hkv, g, s, t] times values [b, hkv, t, d]: float32 [b, hkv, g, s, d]."""
    y = paddle.matmul(_rows(weights).astype(values.dtype), values).astype("float32")
    return y.reshape([*weights.shape[:-1], -1])


class Joined:
    """The result of spans of queries over the blocks of keys they have met so far."""

    def __init__(self) -> None:
        self._found: Dict[Span, Tuple[Tensor, Tensor]] = {}

    def add(self, queries: Span, out: Tensor, lse: Tensor) -> None:
        """Join what `block_attention` gives for one more block of keys."""
        if queries in self._found:
            before, before_lse = self._found[queries]
            top = paddle.maximum(before_lse, lse)
            joined = top + paddle.log(paddle.exp(before_lse - top) + paddle.exp(lse - top))
            out = before * paddle.exp(before_lse - joined) + out * paddle.exp(lse - joined)
            lse = joined
        self._found[queries] = (out, lse)

    def whole(self, order: Sequence[Span]) -> Tuple[Tensor, Tensor]:
        """Results and lse of all spans, in this order along the sequence."""
        outs, lses = zip(*[self._found[queries] for queries in order])
        return paddle.concat(outs, 3), paddle.concat(lses, 3)


class Sums:
    """Gradients of spans of tokens, summed block by block."""

    def __init__(self) -> None:
        self._found: Dict[Span, Tensor] = {}

    def add(self, span: Span, grad: Tensor) -> None:
        """One block's part."""
        self._found[span] = self._found[span] + grad if span in self._found else grad

    def whole(self, order: Sequence[Span], like: Tensor) -> Tensor:
        """Of all spans in this order along the last axis but one; zeros, float32, where there was no block. `like` has
        the shape of the whole."""
        parts = [
            self._found[span] if span in self._found else paddle.zeros([*like.shape[:-2], span.size, like.shape[-1]])
            for span in order
        ]
        return paddle.concat(parts, -2)
