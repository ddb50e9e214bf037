"""Communication with gradients: each operation and the one that carries its gradient back.

The only file whose operations a layer calls in its forward pass.

| operation | forward        | backward       |
|-----------|----------------|----------------|
| copy      | nothing        | all-reduce     |
| total     | all-reduce     | nothing        |
| gather    | all-gather     | reduce-scatter |
| scatter   | reduce-scatter | all-gather     |
| cut       | keep own rows  | all-gather     |

They come in conjugate pairs (Shoeybi et al., arXiv:1909.08053; Korthikanti et al., arXiv:2205.05198).
"""

from __future__ import annotations

from typing import Any, Callable

from paddle import Tensor
from paddle.autograd import PyLayer

from .group import Group
from .topology import topology

Move = Callable[[Tensor, Group], Tensor]


def _same(x: Tensor, group: Group) -> Tensor:
    return x.clone()  # a PyLayer must not return its input


def _sum(x: Tensor, group: Group) -> Tensor:
    return group.all_reduce(x.clone()).wait()


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


copy = _pair("Copy", _same, _sum)
total = _pair("Total", _sum, _same)
gather = _pair("Gather", _all, _summed_share)
scatter = _pair("Scatter", _summed_share, _all)
cut = _pair("Cut", _own_rows, _all)


def enter(x: Tensor) -> Tensor:
    """Into work that is cut over the tensor-parallel ranks: every rank gets all rows of `x` [tokens, ...]."""
    mesh = topology()
    return gather(x, mesh.tp.group) if mesh.sequence_parallel else copy(x, mesh.tp.group)


def leave(x: Tensor) -> Tensor:
    """Out of it: the ranks' partial results are summed; under sequence parallelism each keeps its rows."""
    mesh = topology()
    return scatter(x, mesh.tp.group) if mesh.sequence_parallel else total(x, mesh.tp.group)
