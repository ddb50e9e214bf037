"""Operations built on matrix products of the library's own, for float32 on a CPU."""

from __future__ import annotations

from functools import cache
from typing import List, Optional

import paddle
from paddle import Tensor

from .library import run


def head_loss(
    x: Tensor,
    weight: Tensor,
    labels: Tensor,
    transpose: bool = False,
    wanted_x: bool = True,
    wanted_weight: bool = True,
) -> List[Tensor]:
    """The sum of the cross entropies of x [t, h] times weight [h, v] ([v, h] with `transpose`) at labels, int64 [t]:
    [sum [1], its gradient for x, its gradient for weight]; a gradient that isn't wanted is empty. Not differentiable.

    The logits of all rows never exist at once.
    """
    return run("ext_head_loss", x, weight, labels, bool(transpose), bool(wanted_x), bool(wanted_weight))


def causal_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    window: int = 0,
    starts: Optional[Tensor] = None,
    slopes: Optional[Tensor] = None,
) -> List[Tensor]:
    """softmax(scale q k') v with grouped heads: [y [b, s, h, dv], log(sum(exp(scores))) [b, h, s]]. Not differentiable.

    Args:
        q: [b, s, h, d]; the queries are the last s of the t positions.
        k, v: [b, t, groups, d] and [b, t, groups, dv].
        window: a query sees only keys less than `window` positions back; 0: all up to its own.
        starts: int32 [b, t]: the first key that each position may see, never falling along a row.
        slopes: float32 [h]: slope * (key - position) is added to the scores.
    """
    return run("ext_causal_attention", q, k, v, *_given(starts, slopes), float(scale), int(window))


def causal_attention_grad(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    y: Tensor,
    log_sums: Tensor,
    grad: Tensor,
    scale: float,
    window: int = 0,
    starts: Optional[Tensor] = None,
    slopes: Optional[Tensor] = None,
) -> List[Tensor]:
    """The gradients of q, k and v for `grad` of y, the results of `causal_attention` being y and log_sums."""
    given = _given(starts, slopes)
    return run("ext_causal_attention_grad", q, k, v, *given, y, log_sums, grad, float(scale), int(window))


def scale_(x: Tensor, factor: float) -> Tensor:
    """x times a number, in place, on all threads."""
    return run("ext_scale", x, float(factor))


def product(a: Tensor, b: Tensor, transpose_a: bool = False, transpose_b: bool = False) -> Tensor:
    """The product of two matrices. Not differentiable."""
    return run("ext_product", a, b, bool(transpose_a), bool(transpose_b))


def add_product_(total: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """total [m, n] += a' b, in place, for a [k, m] and b [k, n]; no gradients flow.

    It is a product of the MKL that Paddle brings, where there is one: the last bits depend on the number of threads.
    """
    return run("ext_add_product", total, a, b)


def _given(starts: Optional[Tensor], slopes: Optional[Tensor]) -> List[Tensor]:
    return [_nothing("int32") if starts is None else starts, _nothing("float32") if slopes is None else slopes]


@cache
def _nothing(dtype: str) -> Tensor:
    return paddle.empty([0], dtype)
