"""The head and its cross entropy in one, a block of rows at a time, gradients made on the way."""

from __future__ import annotations

from typing import Any, List, Optional, Tuple

import paddle
from paddle import Tensor
from paddle.autograd import PyLayer
from paddle.nn import functional as F

from paddlenlp.parallel.group import Group
from paddlenlp.utils.pylayer import save

from .. import plain
from ..cut_loss import losses_and_slopes
from . import threads

ROWS = 512
"""Rows of logits in memory at a time."""

SMALLEST = 1e-27
"""Paddle's softmax on a CPU gives no less than exp(-64), about 1.6e-28, times the greatest: the loss of a probability
below this is computed again without it."""


def cross_entropy(logits: Tensor, labels: Tensor, group: Group = plain.SOLO) -> Tensor:
    """-log softmax(logits)[label] of each row, 0 where the label is -100."""
    if group.size > 1:
        return plain.cross_entropy(logits, labels, group)
    loss = F.cross_entropy(
        logits.astype("float32"), labels.unsqueeze(-1), ignore_index=plain.IGNORED, reduction="none"
    ).squeeze(-1)
    loss = loss + _zero(logits.astype("float32"), -1)
    clipped = loss.detach() > -paddle.log(paddle.full([], SMALLEST))
    return paddle.where(clipped, plain.cross_entropy(logits, labels), loss) if bool(clipped.any()) else loss


def head_loss(x: Tensor, weight: Tensor, labels: Tensor, transpose: bool = False, group: Group = plain.SOLO) -> Tensor:
    """Sum of the cross entropies of x [t, h] times weight [h, v] ([v, h] with `transpose`) at labels [t] but -100.

    The ranks of `group` have the columns of the product; the gradient of x is this rank's part of the sum.
    """
    x, weight = x.astype("float32"), weight.astype("float32")
    kept = labels != plain.IGNORED
    if not bool(kept.all()):
        rows = paddle.nonzero(kept).reshape([-1])
        x, labels = paddle.gather(x, rows), paddle.gather(labels, rows)
    if x.shape[0] == 0:
        return (x.sum() + weight[:1].sum()) * 0.0
    wanted = paddle.is_grad_enabled()
    wanted_x, wanted_weight = wanted and not x.stop_gradient, wanted and not weight.stop_gradient
    total = _HeadLoss.apply(x, weight, labels, transpose, group, wanted_x, wanted_weight)
    return total if group.size > 1 else total + _zero(x) + _zero(weight)


def _zero(x: Tensor, axis: Optional[int] = None) -> Tensor:
    """Sum of x, times 0, without gradient: not a number where an element is not finite. Paddle's softmax on a CPU takes
    what is not a number for a small one, and would make a loss of it like any other."""
    return x.detach().sum(axis) * 0.0


class _HeadLoss(PyLayer):
    """A block's probabilities become gradients while they are in memory.

    The backward pass only scales them, in place, since Paddle can't run that of a PyLayer twice.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        labels: Tensor,
        transpose: bool,
        group: Group,
        wanted_x: bool,
        wanted_weight: bool,
    ) -> Tensor:
        total, grads_x, grad_weight = paddle.zeros([]), [], None
        for start in range(0, x.shape[0], ROWS):
            rows, answers = x[start : start + ROWS], labels[start : start + ROWS]
            p, loss = _probabilities(rows, weight, answers, transpose, group)
            total = total + loss
            if wanted_x:
                grads_x.append(paddle.matmul(p, weight, transpose_y=not transpose))
            if wanted_weight:
                part = paddle.matmul(*((p, rows) if transpose else (rows, p)), transpose_x=True)
                grad_weight = part if grad_weight is None else grad_weight.add_(part)
        ctx.wanted = wanted_x, wanted_weight
        made = [paddle.concat(grads_x)] if wanted_x else []
        save(ctx, *made, *([] if grad_weight is None else [grad_weight]))
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tuple[Any, ...]:
        factor = float(grad)
        made: List[Tensor] = [y if factor == 1.0 else y.scale_(factor) for y in ctx.saved_tensor()]
        wanted_x, wanted_weight = ctx.wanted
        return made[0] if wanted_x else None, made[-1] if wanted_weight else None, None


def _probabilities(x: Tensor, weight: Tensor, labels: Tensor, transpose: bool, group: Group) -> Tuple[Tensor, Tensor]:
    """softmax(logits) less 1 at each row's label, which is the gradient of its loss; and the sum of losses."""
    p = paddle.matmul(x, weight, transpose_y=transpose)
    if group.size > 1:
        losses, p = losses_and_slopes(p, labels, group)
        return p, losses.sum()
    threads.run(lambda span: F.softmax_(threads.cut(p, span), -1), threads.spans(p.shape[0]))
    where = paddle.stack([paddle.arange(x.shape[0], dtype=labels.dtype), labels], -1)
    chosen = paddle.gather_nd(p, where)
    p.put_along_axis_(labels.unsqueeze(-1), chosen.unsqueeze(-1) - 1.0, 1)
    clipped = chosen < SMALLEST
    if not bool(clipped.any()):
        return p, -paddle.log(chosen).sum()
    rows = paddle.nonzero(clipped).reshape([-1])
    logits = paddle.matmul(paddle.gather(x, rows), weight, transpose_y=transpose)
    exact = plain.cross_entropy(logits, paddle.gather(labels, rows))
    return p, exact.sum() - paddle.log(paddle.where(clipped, paddle.ones_like(chosen), chosen)).sum()
