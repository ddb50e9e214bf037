"""The token before each token, where ranks share the tokens of a row (`sequence`)."""

from __future__ import annotations

from typing import Any, List, Optional, Tuple

import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

from .group import Group
from .sequence import chunks_of
from .topology import topology


def one_back(x: Tensor, first: Optional[Tensor] = None) -> Tensor:
    """What stands one token before, for each token that this rank holds: x [b, s / n, h] -> [b, s / n, h].

    Only the last token of each chunk of a row travels.

    Args:
        first: [b, 1, h] before the first token of the row, where ranks share no rows; zeros if None.
    """
    rows, _, width = x.shape
    axis = topology().sequence
    if axis.size == 1:
        first = paddle.zeros([rows, 1, width], x.dtype) if first is None else first
        return paddle.concat([first, x[:, :-1]], 1)
    chunks = paddle.chunk(x, len(_chunks(axis.rank, axis.size)), 1)
    before = _LastOfEarlier.apply(paddle.concat([chunk[:, -1:] for chunk in chunks], 1), axis.group)
    return paddle.concat([y for i, chunk in enumerate(chunks) for y in (before[:, i : i + 1], chunk[:, :-1])], 1)


class _LastOfEarlier(PyLayer):
    """The last tokens [b, m, h] of this rank's m chunks -> those of the chunks before these; zeros before the first.

    One operation, so that every rank is there for the gradients of all, whether it uses a token of another or not.
    """

    @staticmethod
    def forward(ctx: Any, lasts: Tensor, group: Group) -> Tensor:
        ctx.group = group
        everyones = group.all_gather(lasts.unsqueeze(0).contiguous()).wait()
        places = _earlier(group)
        return paddle.stack(
            [paddle.zeros_like(lasts[:, 0]) if at is None else everyones[at[0], :, at[1]] for at in places], 1
        )

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        of_all = paddle.zeros([ctx.group.size, *grad.shape], grad.dtype)
        for number, at in enumerate(_earlier(ctx.group)):
            if at is not None:
                of_all[at[0], :, at[1]] = grad[:, number]
        return ctx.group.reduce_scatter(of_all).wait().squeeze(0)


def _earlier(group: Group) -> List[Optional[Tuple[int, int]]]:
    """For each of this rank's chunks: the rank that holds the one before it, and which of its chunks that is."""
    holders = {chunk: (rank, i) for rank in range(group.size) for i, chunk in enumerate(_chunks(rank, group.size))}
    return [holders.get(chunk - 1) for chunk in _chunks(group.rank, group.size)]


def _chunks(rank: int, size: int) -> Tuple[int, ...]:
    """Numbers of the chunks of a row that a rank holds, in the order in which it holds them."""
    return chunks_of(rank, size) if topology().cp.size > 1 else (rank,)
