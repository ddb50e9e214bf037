"""SwiGLU from one sigmoid."""

from __future__ import annotations

from typing import Any, Tuple

import paddle
from paddle import Tensor
from paddle.autograd import PyLayer
from paddle.nn import functional as F

from paddlenlp.utils.pylayer import needed, note_frozen, save

from .. import plain


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up."""
    if gate.dtype != paddle.float32 or up.dtype != paddle.float32:
        return plain.swiglu(gate, up)
    return _SwiGLU.apply(gate, up)


class _SwiGLU(PyLayer):
    """Keeps the sigmoid, so that the backward pass takes no exponential."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        note_frozen(ctx, gate, up)
        sigmoid = F.sigmoid(gate)
        silu = gate * sigmoid
        save(ctx, up, sigmoid, silu)
        return silu * up

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tuple[Any, ...]:
        up, sigmoid, silu = ctx.saved_tensor()
        slope = (silu * sigmoid).scale_(-1.0).add_(silu).add_(sigmoid)
        return needed(ctx, [slope.multiply_(grad).multiply_(up), grad * silu])
