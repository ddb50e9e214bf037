"""Rotary positions without broadcasts over inner axes."""

from __future__ import annotations

from typing import Any, Tuple

import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

from paddlenlp.utils.pylayer import save

from .. import plain


def rotate(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False) -> Tensor:
    """Turn the pairs (i, i + d/2) of x [b, s, heads, d] by angles with these cosines and sines [b | 1, s, 1, d/2]."""
    if interleaved or x.dtype != paddle.float32:
        return plain.rotate(x, cos, sin, interleaved)
    return _Rotate.apply(x, _table(x, cos, cos), _table(x, -sin, sin))


def _table(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """One factor for each element of a row of the batch: [s * heads * d], or [b, s * heads * d] if the rows differ."""
    table = paddle.concat([low, high], -1).expand([low.shape[0], *x.shape[1:]])
    return table.reshape([-1] if low.shape[0] == 1 else [low.shape[0], -1])


def _swap(x: Tensor) -> Tensor:
    """Exchange the two halves of the last axis."""
    half = x.shape[-1] // 2
    return paddle.concat([x[..., half:], x[..., :half]], -1)


class _Rotate(PyLayer):
    """y = x cos + swap(x) (-sin | sin). The tables are as wide as a row of x, since Paddle
    broadcasts one axis over leading ones fast, and everything else slowly."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        save(ctx, cos, sin)
        flat = [x.shape[0], -1]
        return (x.reshape(flat) * cos).add_(_swap(x).reshape(flat).multiply_(sin)).reshape(x.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tuple[Any, ...]:
        cos, sin = ctx.saved_tensor()
        flat = [grad.shape[0], -1]
        grad_x = (grad.reshape(flat) * cos).subtract_(_swap(grad).reshape(flat).multiply_(sin))
        return grad_x.reshape(grad.shape), None, None
