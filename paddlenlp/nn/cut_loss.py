"""Cross entropy where each rank has its own columns of the logits. The logits never travel: three numbers of each row
do."""

from __future__ import annotations

from typing import Any, Tuple

import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

from paddlenlp.parallel.group import Group
from paddlenlp.utils.pylayer import save


def cut_cross_entropy(logits: Tensor, labels: Tensor, group: Group) -> Tensor:
    """-log softmax(logits)[label] of each row, 0 where the label is negative, float32 [t].

    Args:
        logits: [t, vocab / group.size], the columns of this rank.
        labels: [t], over the whole vocabulary, the same on every rank.
        group: the ranks, in the order of their columns.
    """
    return _CutCrossEntropy.apply(logits, labels, group)


def losses_and_slopes(logits: Tensor, labels: Tensor, group: Group) -> Tuple[Tensor, Tensor]:
    """The losses [t] and their gradients with respect to `logits`, float32, which are overwritten by them.

    Each rank takes the exponentials less its own greatest logit. What all ranks have to know of a row are these
    maxima, the sums of these exponentials, and the logit of the label: one all-gather of [3, t].
    """
    own = labels - logits.shape[1] * group.rank
    here = (own >= 0) & (own < logits.shape[1])
    own = paddle.where(here, own, paddle.zeros_like(own)).unsqueeze(-1)
    factor = here.astype("float32")
    answer = paddle.take_along_axis(logits, own, 1).squeeze(-1) * factor
    top = logits.max(-1)
    powers = logits.subtract_(top.unsqueeze(-1)).exp_()
    rows = group.all_gather(paddle.stack([top, powers.sum(-1), answer])).wait()
    tops, sums, answers = rows.reshape([group.size, 3, -1]).unbind(1)
    highest = tops.max(0)
    total = (sums * paddle.exp(tops - highest)).sum(0)
    kept = (labels >= 0).astype("float32")
    losses = (paddle.log(total) - (answers.sum(0) - highest)) * kept
    slopes = powers.multiply_((paddle.exp(top - highest) / total * kept).unsqueeze(-1))
    chosen = paddle.take_along_axis(slopes, own, 1) - factor.unsqueeze(-1)
    return losses, slopes.put_along_axis_(own, chosen, 1)


class _CutCrossEntropy(PyLayer):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, group: Group) -> Tensor:
        wide = logits.clone() if logits.dtype == paddle.float32 else logits.astype("float32")
        losses, slopes = losses_and_slopes(wide, labels, group)
        ctx.dtype = logits.dtype
        save(ctx, slopes)
        return losses

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tuple[Any, ...]:
        (slopes,) = ctx.saved_tensor()
        return (slopes * grad.unsqueeze(-1)).astype(ctx.dtype), None
