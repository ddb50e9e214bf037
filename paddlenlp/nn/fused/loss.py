"""The head and its cross entropy in one operation, which has the logits of a block of rows in a form of its own."""

from __future__ import annotations

from typing import Any, Tuple

import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

from paddlenlp.parallel.group import Group
from paddlenlp.utils.pylayer import save

from .. import external, plain
from ..plain import IGNORED


def head_loss(x: Tensor, weight: Tensor, labels: Tensor, transpose: bool = False, group: Group = plain.SOLO) -> Tensor:
    """See `kernels.head_loss`. Where the vocabulary is cut over ranks, `external.head_loss` exchanges what it takes."""
    if group.size > 1 or x.dtype != paddle.float32 or weight.dtype != paddle.float32:
        return external.head_loss(x, weight, labels, transpose, group)
    kept = labels != IGNORED
    if not bool(kept.all()):
        places = paddle.nonzero(kept).reshape([-1])
        x, labels = paddle.gather(x, places), paddle.gather(labels, places)
    if x.shape[0] == 0:
        return (x.sum() + weight[:1].sum()) * 0.0
    wanted = paddle.is_grad_enabled()
    return _HeadLoss.apply(
        x, weight, labels, transpose, wanted and not x.stop_gradient, wanted and not weight.stop_gradient
    )


class _HeadLoss(PyLayer):
    """The gradients are made with the loss.

    The backward pass only scales them, in place, since Paddle can't run that of a PyLayer twice.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, labels: Tensor, transpose: bool, wanted_x: bool, wanted_weight: bool
    ) -> Tensor:
        made = external.function("fused_layers", "head_loss")(x, weight, labels, transpose, wanted_x, wanted_weight)
        ctx.wanted = wanted_x, wanted_weight
        save(ctx, *made[1:])
        return made[0].reshape([])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tuple[Any, ...]:
        factor, scale = float(grad), external.function("fused_layers", "scale_")
        made = [scale(y, factor) if wanted else None for y, wanted in zip(ctx.saved_tensor(), ctx.wanted)]
        return made[0], made[1], None
