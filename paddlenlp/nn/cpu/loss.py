"""Cross entropy, alone and together with the head (`nn/head_rows.py`)."""

from __future__ import annotations

from typing import Tuple

import paddle
from paddle import Tensor
from paddle.nn import functional as F

from paddlenlp.parallel.group import Group

from .. import head_rows, plain
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
    loss = loss + head_rows.zero_of(logits, -1)
    clipped = loss.detach() > -paddle.log(paddle.full([], SMALLEST))
    return paddle.where(clipped, plain.cross_entropy(logits, labels), loss) if bool(clipped.any()) else loss


def head_loss(x: Tensor, weight: Tensor, labels: Tensor, transpose: bool = False, group: Group = plain.SOLO) -> Tensor:
    """See `head_rows.head_loss`."""
    x, weight = x.astype("float32"), weight.astype("float32")
    return head_rows.head_loss(x, weight, labels, transpose, group, _probabilities, ROWS)


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
