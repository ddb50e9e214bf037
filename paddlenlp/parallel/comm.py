"""Communication with gradients: each operation and the one that carries its gradient back.

What a layer calls in its forward pass is here, in `products` (the same, overlapped with matrix products), and for
experts and sequences in `experts` and `sequence`.

| operation | forward               | backward         |
|-----------|-----------------------|------------------|
| copy      | nothing               | all-reduce       |
| total     | all-reduce            | nothing          |
| gather    | all-gather            | reduce-scatter   |
| scatter   | reduce-scatter        | all-gather       |
| cut       | keep own rows         | all-gather       |
| widen     | all-gather of columns | keep own columns |

They come in conjugate pairs (Shoeybi et al., arXiv:1909.08053; Korthikanti et al., arXiv:2205.05198).
"""

from __future__ import annotations

from typing import Any, Callable

from paddle import Tensor
from paddle.autograd import PyLayer

from paddlenlp.utils.errors import UsageError

from .group import Group
from .topology import topology

Move = Callable[[Tensor, Group], Tensor]


def _same(x: Tensor, group: Group) -> Tensor:
    return x.clone()  # a PyLayer must not return its input


def _sum(x: Tensor, group: Group) -> Tensor:
    return group.all_reduce(x.clone()).wait()  # in place, so not of x itself, which x.contiguous() would be


def _all(x: Tensor, group: Group) -> Tensor:
    return group.all_gather(x.contiguous()).wait()


def _summed_share(x: Tensor, group: Group) -> Tensor:
    return group.reduce_scatter(x.contiguous()).wait()


def _own_rows(x: Tensor, group: Group) -> Tensor:
    rows = x.shape[0] // group.size
    return x[group.rank * rows : (group.rank + 1) * rows].clone()


def _pair(name: str, forward: Move, backward: Move) -> Callable[[Tensor, Group], Tensor]:
    """An operation on (x, group) whose gradient is moved by `backward`."""

    class Pair(PyLayer):
        @staticmethod
        def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
            ctx.group = group
            return forward(x, group)

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return backward(grad, ctx.group)

    Pair.__name__ = Pair.__qualname__ = name
    return lambda x, group: x if group.size == 1 else Pair.apply(x, group)


def _all_columns(x: Tensor, group: Group) -> Tensor:
    rows = _all(x, group).reshape([group.size, *x.shape])
    return rows.transpose([1, 0, 2]).reshape([x.shape[0], -1])


def _own_columns(x: Tensor, group: Group) -> Tensor:
    return x.chunk(group.size, 1)[group.rank].clone()


copy = _pair("Copy", _same, _sum)
total = _pair("Total", _sum, _same)
gather = _pair("Gather", _all, _summed_share)
scatter = _pair("Scatter", _summed_share, _all)
cut = _pair("Cut", _own_rows, _all)
widen = _pair("Widen", _all_columns, _own_columns)


def enter(x: Tensor) -> Tensor:
    """Into work that is cut over the tensor-parallel ranks: every rank gets all rows of `x` [tokens, ...]."""
    mesh = topology()
    return gather(x, mesh.tp.group) if mesh.sequence_parallel else copy(x, mesh.tp.group)


def leave(x: Tensor) -> Tensor:
    """Out of it: the ranks' partial results are summed; under sequence parallelism each keeps its rows."""
    mesh = topology()
    if not mesh.sequence_parallel:
        return total(x, mesh.tp.group)
    check_rows(x.shape[0])
    return scatter(x, mesh.tp.group)


def own_rows(x: Tensor) -> Tensor:
    """Of what belongs to all tokens, [tokens, ...] without gradients, the rows of the hidden states of this rank."""
    mesh = topology()
    return _own_rows(x, mesh.tp.group) if mesh.sequence_parallel else x


def check_rows(rows: int) -> None:
    """Sequence parallelism can cut so many tokens.

    Raises:
        UsageError: it cannot.
    """
    size = topology().tp.size
    if rows % size:
        raise UsageError(
            f"sequence_parallel cuts the {rows} tokens of a micro batch (rows x sequence length) into equal parts for "
            f"tensor_parallel_degree={size} ranks, which they don't divide into: choose a batch size or sequence "
            "length that does, or leave out sequence_parallel"
        )
