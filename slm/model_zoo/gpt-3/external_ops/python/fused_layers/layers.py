"""Operations of layers, the loss and the optimizer."""

from __future__ import annotations

from typing import List, Union

import paddle
from paddle import Tensor

from .library import run


def fused_rope(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False) -> Tensor:
    """x [b, s, heads, d], its pairs (i, i + d/2), or (2i, 2i + 1) if `interleaved`, turned by angles with these cosines
    and sines, float32 [b | 1, s, 1, d/2]. Differentiable in x."""
    return run("ext_rope", x, cos, sin, bool(interleaved))


def fused_swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """gate * sigmoid(gate) * up. Differentiable; keeps its two inputs only."""
    return run("ext_swiglu", gate, up)


def fused_add_rms_norm(x: Tensor, residual: Tensor, scale: Tensor, epsilon: float) -> List[Tensor]:
    """[y, sum, invvar]: sum = x + residual; y = sum * invvar * scale with invvar = 1 / sqrt(mean(sum^2) + epsilon) over
    the last axis. y and sum are differentiable."""
    return run("ext_add_rms_norm", x, residual, scale, float(epsilon))


def cross_entropy_parts(logits: Tensor, labels: Tensor, first: int = 0) -> List[Tensor]:
    """[max, sum, picked], each float32 [t], of logits [t, v], which are the columns from `first` on of a whole.

    Args:
        labels: int64 [t], over the whole vocabulary.

    Returns:
        The greatest logit of each row, the sum of exp(logit - greatest), and the logit of the label, 0 if it is not
        among these columns. A row with a logit that is no number has such a sum.
    """
    return run("ext_cross_entropy_parts", logits, labels, int(first))


def cross_entropy_slopes_(
    logits: Tensor, labels: Tensor, log_sum: Tensor, first: int = 0, scale: Union[float, Tensor] = 1.0
) -> Tensor:
    """Logits [t, v] become the gradient of the losses, scale * (exp(logit - log_sum) - [column is the label]),
    in place; 0 in rows whose label is negative.

    Args:
        log_sum: float32 [t], the logarithm of the sum of exponentials over all columns of all ranks.
        scale: a number, or float32 [1] or [t], one for each row.
    """
    factor = scale if isinstance(scale, Tensor) else paddle.full([1], scale, "float32")
    return run("ext_cross_entropy_slopes", logits, labels, log_sum, factor, int(first))


def fused_adamw_(
    weight: Tensor,
    moment1: Tensor,
    moment2: Tensor,
    gradient: Tensor,
    lr: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    decay: float,
    correction1: float,
    correction2: float,
    factor: float = 1.0,
) -> None:
    """One step of AdamW in place, in one pass over memory: g = factor * gradient, m1 = beta1 m1 + (1 - beta1) g,
    m2 = beta2 m2 + (1 - beta2) g^2, weight = (1 - lr decay) weight - lr m1 / correction1 / (sqrt(m2 / correction2) +
    epsilon). Corrections are 1 - beta^t, with beta as float32. All tensors have one shape. No gradients flow."""
    numbers = (lr, beta1, beta2, epsilon, decay, correction1, correction2, factor)
    run("ext_adamw", weight.detach(), moment1, moment2, gradient, *map(float, numbers))


def squared_norm(x: Tensor) -> Tensor:
    """The sum of squares of all elements, float32 [1], added in float64."""
    return run("ext_squared_norm", x)


def embedding_grad(ids: Tensor, grad: Tensor, rows: int) -> Tensor:
    """[rows, h]: for each row the sum of those lines of grad [..., h] whose id (int64, [...]) it is."""
    return run("ext_embedding_slopes", ids, grad, int(rows))
