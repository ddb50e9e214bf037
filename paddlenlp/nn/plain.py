"""The operations in plain Paddle, on any device: what the others are measured and tested against.

Sums, means, softmaxes and losses are taken in float32 whatever the inputs are; results come back in the dtype of the
first argument.
"""

from __future__ import annotations

from typing import Any, Callable, Optional, Tuple

import numpy as np
import paddle
from paddle import Tensor, _C_ops
from paddle.nn import functional as F

from paddlenlp.parallel.group import Group, SoloGroup

from .cut_loss import cut_cross_entropy
from .documents import Documents

IGNORED = -100
"""The label of a token that counts in no loss."""

MASKED = -1e30
"""What a score becomes where attention may not look: finite, so that a row without any key gives no NaN."""

KERNELS = (
    "rms_norm",
    "layer_norm",
    "rotate",
    "attention",
    "swiglu",
    "linear",
    "add_product",
    "embedding",
    "cross_entropy",
    "head_loss",
    "adamw",
    "squared_norm",
)
"""The operations below, by name."""

SOLO = SoloGroup()
"""Who has the columns of logits that are whole."""

HEAD_ROWS = 1024
"""Rows of logits that `head_loss` has in memory at a time."""


def rms_norm(x: Tensor, weight: Tensor, eps: float, offset: float = 0.0) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * (offset + weight) over the last axis (Zhang and Sennrich, arXiv:1910.07467)."""
    y = x.astype("float32")
    y = y * paddle.rsqrt((y * y).mean(-1, keepdim=True) + eps)
    scale = weight.astype("float32")
    return (y * (scale + offset if offset else scale)).astype(x.dtype)


def layer_norm(x: Tensor, weight: Tensor, bias: Optional[Tensor], eps: float) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last axis."""
    bias = None if bias is None else bias.astype("float32")
    return F.layer_norm(x.astype("float32"), x.shape[-1:], weight.astype("float32"), bias, eps).astype(x.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False) -> Tensor:
    """Turn each pair of features by its angle (arXiv:2104.09864).

    Args:
        x: [b, s, heads, d]; pairs are (i, i + d/2), or (2i, 2i + 1) if `interleaved`.
        cos, sin: float32 [b | 1, s, 1, d/2].
    """
    y = x.astype("float32")
    a, b = (y[..., ::2], y[..., 1::2]) if interleaved else paddle.chunk(y, 2, -1)
    a, b = a * cos - b * sin, a * sin + b * cos
    y = paddle.stack([a, b], -1).flatten(-2) if interleaved else paddle.concat([a, b], -1)
    return y.astype(x.dtype)


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
    """softmax(q k' * scale + bias) v; see `kernels.attention` for the arguments. Memory: all b * h * s * t scores."""
    b, s, h, d = q.shape
    t, groups = k.shape[1], k.shape[2]
    q, k, v = (y.transpose([0, 2, 1, 3]) for y in (q, k, v))
    q = q.reshape([b, groups, h // groups, s, d])
    scores = paddle.matmul(q, k.unsqueeze(2), transpose_y=True).astype("float32") * (
        d**-0.5 if scale is None else scale
    )
    for added in (bias, None if slopes is None else _linear_bias(slopes, s, t)):
        if added is not None:
            scores = scores + _grouped(added.astype("float32"), groups)
    allowed = _allowed(s, t, mask, window, groups)
    if documents is not None:
        allowed = allowed & documents.same(slice(t - s, t), slice(t)).unsqueeze([1, 2])
    scores = paddle.where(allowed, scores, paddle.full_like(scores, MASKED))
    p = F.softmax(scores, -1) * allowed.astype("float32")
    if dropout:
        p = F.dropout(p, dropout)
    y = paddle.matmul(p.astype(v.dtype), v.unsqueeze(2)).reshape([b, h, s, v.shape[-1]])
    return y.transpose([0, 2, 1, 3])


def _grouped(y: Tensor, groups: int) -> Tensor:
    """[b | 1, h | 1, s, t] seen as [b | 1, groups | 1, heads of a group | 1, s, t]."""
    heads = y.shape[1]
    return y.reshape([y.shape[0], *((1, 1) if heads == 1 else (groups, heads // groups)), *y.shape[2:]])


def _linear_bias(slopes: np.ndarray, queries: int, keys: int) -> Tensor:
    """slope * (place of the key - place of the query), float32 [1, heads, queries, keys]; the queries come last."""
    places = paddle.arange(keys, dtype="float32")
    distance = places.unsqueeze(0) - places[keys - queries :].unsqueeze(1)
    return (paddle.to_tensor(slopes, "float32").reshape([-1, 1, 1]) * distance).unsqueeze(0)


def _allowed(s: int, t: int, mask: Optional[Tensor], window: Optional[int], groups: int) -> Tensor:
    """Boolean, broadcastable to [b, groups, heads of a group, s, t]: which keys each query sees."""
    distance = paddle.arange(t - s, t).unsqueeze(1) - paddle.arange(t).unsqueeze(0)
    allowed = distance >= 0
    if mask is not None and mask.ndim == 4:
        allowed = _grouped(mask.astype("bool"), groups)
    elif mask is not None:
        allowed = allowed.unsqueeze([0, 1, 2]) & mask.astype("bool").unsqueeze([1, 2, 3])
    return allowed if window is None else allowed & (distance < window)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up (arXiv:2002.05202)."""
    return F.silu(gate) * up


def linear(x: Tensor, weight: Tensor, bias: Optional[Tensor] = None) -> Tensor:
    """x [..., in] times weight [in, out], plus bias [out]."""
    y = paddle.matmul(x, weight)
    return y if bias is None else y + bias


def add_product(total: Tensor, x: Tensor, grad: Tensor) -> None:
    """total [in, out] += x' grad in place, for x [rows, in] and grad [rows, out]; total is float32."""
    total.add_(paddle.matmul(x, grad, transpose_x=True).astype("float32"))


def embedding(ids: Tensor, weight: Tensor) -> Tensor:
    """Rows of weight [vocab, h] for ids [...]: [..., h]."""
    return F.embedding(ids, weight)


def cross_entropy(logits: Tensor, labels: Tensor, group: Group = SOLO) -> Tensor:
    """log(sum(exp(logits))) - logits[label] in float32, 0 where the label is -100. logits [t, v], labels [t] -> [t].

    Where the columns of the logits are cut over the ranks of `group`, they are the own ones.

    (F.cross_entropy divides means by all labels, ignored ones too, and on a CPU gives no loss above 64.)
    """
    if group.size > 1:
        return cut_cross_entropy(logits, labels, group)
    kept = labels != IGNORED
    answers = paddle.where(kept, labels, paddle.zeros_like(labels)).unsqueeze(-1)
    logits = logits.astype("float32")
    logits = logits - logits.detach().max(-1, keepdim=True)
    loss = paddle.log(paddle.exp(logits).sum(-1)) - paddle.take_along_axis(logits, answers, 1).squeeze(-1)
    return loss * kept.astype("float32")


def head_loss(
    x: Tensor,
    weight: Tensor,
    labels: Tensor,
    transpose: bool = False,
    group: Group = SOLO,
    loss: Callable[[Tensor, Tensor, Group], Tensor] = cross_entropy,
) -> Tensor:
    """Sum of `loss` of x [t, h] times weight [h, v] (or [v, h] with `transpose`), a block of rows at a time.

    The ranks of `group` have the columns of the product.

    Without gradients no more than HEAD_ROWS rows of logits exist; with them the blocks stay for the backward pass.
    """
    total = paddle.zeros([], "float32")
    for start in range(0, x.shape[0], HEAD_ROWS):
        rows = slice(start, start + HEAD_ROWS)
        logits = paddle.matmul(x[rows], weight, transpose_y=transpose)
        total = total + loss(logits, labels[rows], group).sum()
    return total


def adamw(
    weight: Tensor,
    gradient: Tensor,
    moments: Tuple[Tensor, Tensor],
    powers: Tuple[Tensor, Tensor],
    *,
    lr: float,
    betas: Tuple[float, float],
    epsilon: float,
    decay: float,
    factor: float,
) -> None:
    """See `kernels.adamw`. The arithmetic is Paddle's: `merged_adam_` is the kernel under
    `paddle.optimizer.Adam(use_multi_tensor=True)`, on a CPU four times as fast as the one under
    `paddle.optimizer.AdamW`; `weight *= 1 - lr * decay` before it makes it AdamW."""
    if factor != 1.0:
        gradient.scale_(factor)
    if decay:
        weight.scale_(1.0 - lr * decay)
    kernel: Any = _C_ops.merged_adam_  # Paddle's type stub lacks some of its parameters
    state = ([moments[0]], [moments[1]], None, [powers[0]], [powers[1]], None)
    multi_precision = use_global_beta_pow = amsgrad = False
    rate = paddle.full([1], lr, "float32")
    kernel([weight], [gradient], [rate], *state, *betas, epsilon, multi_precision, use_global_beta_pow, amsgrad)


def squared_norm(x: Tensor) -> Tensor:
    """Sum of the squares of all elements, float32 [1]."""
    return _C_ops.squared_l2_norm(x)
