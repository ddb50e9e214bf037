"""Root mean square norm in few passes."""

from __future__ import annotations

from typing import Any, Tuple

import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

from paddlenlp.utils.pylayer import needed, note_frozen, save

from .. import plain


def rms_norm(x: Tensor, weight: Tensor, eps: float, offset: float = 0.0) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * (offset + weight) over the last axis."""
    if x.dtype != paddle.float32:
        return plain.rms_norm(x, weight, eps, offset)
    weight = weight.astype("float32")
    y = _RMSNorm.apply(x.reshape([-1, x.shape[-1]]), weight + offset if offset else weight, eps)
    return y.reshape(x.shape)


class _RMSNorm(PyLayer):
    """Means over features and sums over rows are matrix products: Paddle's reductions on a CPU are ten times slower."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        note_frozen(ctx, x, weight)
        size = x.shape[1]
        inverse = paddle.rsqrt(paddle.matmul(paddle.square(x), paddle.full([size, 1], 1.0 / size)) + eps)
        y = x * inverse
        save(ctx, y, inverse, weight)
        return y * weight

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tuple[Any, ...]:
        y, inverse, weight = ctx.saved_tensor()
        rows, size = y.shape
        product = grad * y
        grad_weight = paddle.matmul(paddle.ones([1, rows]), product).reshape([size])
        along = y * paddle.matmul(product, (weight / size).unsqueeze(1))
        return needed(ctx, [(grad * weight).subtract_(along).multiply_(inverse), grad_weight])
