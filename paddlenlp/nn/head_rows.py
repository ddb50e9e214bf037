"""The head and its cross entropy in one, a block of rows at a time, gradients made on the way: the logits of all rows
never exist at once."""

from __future__ import annotations

from typing import Any, Callable, List, Optional, Tuple

import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

from paddlenlp.parallel.group import Group
from paddlenlp.utils.pylayer import save

from .plain import IGNORED

Slopes = Callable[[Tensor, Tensor, Tensor, bool, Group], Tuple[Tensor, Tensor]]
"""(rows [t, h], weight, labels [t], transpose, group) -> the gradients of the losses with respect to the logits
[t, v], and the sum of the losses."""


def head_loss(
    x: Tensor, weight: Tensor, labels: Tensor, transpose: bool, group: Group, slopes: Slopes, rows: int
) -> Tensor:
    """Sum of the cross entropies of x [t, h] times weight [h, v] ([v, h] with `transpose`) at labels [t] but -100.

    The ranks of `group` have the columns of the product; the gradient of x is this rank's part of the sum. `slopes`
    gets `rows` rows at a time.
    """
    kept = labels != IGNORED
    if not bool(kept.all()):
        places = paddle.nonzero(kept).reshape([-1])
        x, labels = paddle.gather(x, places), paddle.gather(labels, places)
    if x.shape[0] == 0:
        return (x.sum() + weight[:1].sum()).astype("float32") * 0.0
    wanted = paddle.is_grad_enabled()
    wanted_x, wanted_weight = wanted and not x.stop_gradient, wanted and not weight.stop_gradient
    total = _HeadLoss.apply(x, weight, labels, transpose, group, (slopes, rows, wanted_x, wanted_weight))
    return total if group.size > 1 else total + zero_of(x) + zero_of(weight)


def zero_of(x: Tensor, axis: Optional[int] = None) -> Tensor:
    """Sum of x, times 0, without gradient: not a number where an element is not finite. Paddle's softmax on a CPU takes
    what is not a number for a small one, and would make a loss of it like any other."""
    return x.detach().sum(axis).astype("float32") * 0.0


class _HeadLoss(PyLayer):
    """A block's probabilities become gradients while they are in memory.

    The backward pass only scales them, in place, since Paddle can't run that of a PyLayer twice.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, labels: Tensor, transpose: bool, group: Group, how: Tuple[Any, ...]
    ) -> Tensor:
        slopes, count, wanted_x, wanted_weight = how
        total, grads_x, grad_weight = paddle.zeros([]), [], None
        for start in range(0, x.shape[0], count):
            rows, answers = x[start : start + count], labels[start : start + count]
            p, loss = slopes(rows, weight, answers, transpose, group)
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
