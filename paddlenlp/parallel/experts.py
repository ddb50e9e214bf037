"""Rows of tokens on their way to the experts that work on them, and back.

The experts of a layer are dealt out over the ranks of `topology().ep`: each holds as many, consecutive ones. Every rank
sends each of its rows to the ranks that hold the row's experts, computes what it received, and sends the results back.
Gradients travel the same ways in the opposite directions. Where no experts are dealt out nothing is sent.

A layer sends, over `ep`: one count for each expert (int64), its chosen rows there and their results back, and in the
backward pass the gradients of both: four times rows x top_k x hidden elements, of which 1 / ep stay.

Under tensor parallelism experts are cut like a GatedMLP, and each of the t ranks that read the same T rows sends all of
them over its own line of ep. They could send 1 / t each and gather on the experts' side. One pass over n = ep ranks
with k choices then sends, in units of 2 T x hidden elements a rank:

|             | over tp       | over ep             | together                            |
|-------------|---------------|---------------------|-------------------------------------|
| as it is    | (1 - 1 / t)   | k (1 - 1 / n)       | k (1 - 1 / n) + (1 - 1 / t)         |
| the other   | k (1 - 1 / t) | k / t (1 - 1 / n)   | k (1 - 1 / (n t)), less where n > k |

The other way sends k rows over tp for each one, unequally many to each rank, after one more exchange of counts; and
where there are shared experts, which work on all rows, it saves nothing on (1 - 1 / t). So it sends less in all only
without shared experts and with n > k. What speaks for it is a network of which tp uses the fast part and ep the slow
one: there it would take k (1 - 1 / n) (1 - 1 / t) off the slow part.
"""

from __future__ import annotations

from typing import Any, List, Optional, Sequence, Tuple

import numpy as np
import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.pylayer import needed, note_frozen, save

from .group import Group
from .topology import topology


def own_experts(experts: int) -> range:
    """Which of so many experts this rank holds.

    Raises:
        UsageError: they can't be dealt out equally.
    """
    ep = topology().ep
    if experts % ep.size:
        raise UsageError(
            f"{experts} experts cannot be dealt out equally over {ep.size} ranks: set expert_parallel_degree to a "
            f"divisor of {experts}"
        )
    own = experts // ep.size
    return range(ep.rank * own, (ep.rank + 1) * own)


def all_rows(choices: Tensor) -> Tensor:
    """`choices` [rows, ...], which carry no gradient, of all rows that enter the work of the tensor-parallel ranks."""
    mesh = topology()
    return mesh.tp.group.all_gather(choices.contiguous()).wait() if mesh.sequence_parallel else choices


class Deal:
    """Where the rows of this rank go and how their results come back.

    Rows are ordered by expert, those of one expert by their place; so sums are taken in the same order in every run.

    Args:
        chosen: int64 [rows, k], the experts of each row.
        experts: how many there are.
        most: how many rows of this rank an expert takes; those at later places get nothing from it. No limit if None.

    Attributes:
        sizes: rows that came for each expert of this rank.
        order: int64 [rows * k], the choices of all rows (row * k + choice) by expert, and last those that are too many.
        place: the inverse of `order`.
        kept: choices that are not too many.
    """

    def __init__(self, chosen: Tensor, experts: int, most: Optional[int] = None) -> None:
        self.rows, self.choices = chosen.shape
        pairs = chosen.reshape([-1])
        order = paddle.argsort(pairs, stable=True)
        counts = np.bincount(pairs.numpy(), minlength=experts)
        self.kept = len(pairs)
        if most is not None and counts.max() > most:
            order, self.kept = _within(order, counts, most)
            counts = np.minimum(counts, most)
        self.order, self.place = order, paddle.argsort(order)
        self._group = topology().ep.group
        self.sizes: List[int] = counts.tolist()
        if self._group.size > 1:
            self._exchange_counts(counts)

    def _exchange_counts(self, counts: np.ndarray) -> None:
        size = self._group.size
        theirs = self._group.all_to_all(paddle.to_tensor(counts.astype(np.int64))).wait().numpy().reshape(size, -1)
        self.sizes = theirs.sum(0).tolist()
        self._sent, self._received = counts.reshape(size, -1).sum(1).tolist(), theirs.sum(1).tolist()
        # Rows arrive by rank and within a rank by expert.
        expert_of_row = np.repeat(np.tile(np.arange(theirs.shape[1]), size), theirs.reshape(-1))
        by_expert = np.argsort(expert_of_row, kind="stable")
        self._by_expert = paddle.to_tensor(by_expert)
        self._by_rank = paddle.to_tensor(np.argsort(by_expert))

    def out(self, x: Tensor) -> Tensor:
        """From x [rows, h] to the rows that the experts of this rank work on [sum(sizes), h], expert by expert."""
        y = _Spread.apply(x, self)
        if self._group.size == 1:
            return y
        y = _Exchange.apply(y, self._sent, self._received, self._group)
        return _Reorder.apply(y, self._by_expert, self._by_rank)

    def back(self, y: Tensor, weights: Tensor) -> Tensor:
        """The sum of each row's results, weighted: y [sum(sizes), h] and weights float32 [rows, k] -> [rows, h]."""
        if self._group.size > 1:
            y = _Reorder.apply(y, self._by_rank, self._by_expert)
            y = _Exchange.apply(y, self._received, self._sent, self._group)
        return _Collect.apply(y, weights, self)

    def by_row(self, y: Tensor) -> Tensor:
        """y [kept, h], ordered by expert, as [rows, k, h] with zeros where a row was too many."""
        missing = self.place.shape[0] - self.kept
        if missing:
            y = paddle.concat([y, paddle.zeros([missing, y.shape[1]], y.dtype)])
        return y.index_select(self.place).reshape([self.rows, self.choices, -1])


def _within(order: Tensor, counts: np.ndarray, most: int) -> Tuple[Tensor, int]:
    """`order` with the rows that are too many for their expert at the end, and how many are not."""
    place = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    keep = place < most
    sorted_pairs = order.numpy()
    return paddle.to_tensor(np.concatenate([sorted_pairs[keep], sorted_pairs[~keep]])), int(keep.sum())


class _Spread(PyLayer):
    """Each row as often as it is needed. The gradient sums a row's copies in the order of its choices: never by
    scattered additions, whose order would differ from run to run on a GPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, deal: Deal) -> Tensor:
        ctx.deal = deal
        return x.index_select(deal.order[: deal.kept] // deal.choices)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return ctx.deal.by_row(grad).sum(1)


class _Collect(PyLayer):
    """The weighted sum of a row's results, in float32. Keeps the results as they came, not by row."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, weights: Tensor, deal: Deal) -> Tensor:
        ctx.deal = deal
        note_frozen(ctx, y, weights)
        save(ctx, y, weights)
        return (deal.by_row(y).astype("float32") * weights.unsqueeze(-1)).sum(1).astype(y.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tuple[Any, ...]:
        deal: Deal = ctx.deal
        y, weights = ctx.saved_tensor()
        grad = grad.astype("float32").unsqueeze(1)
        to_weights = (deal.by_row(y).astype("float32") * grad).sum(-1)
        pairs = (grad * weights.unsqueeze(-1)).reshape([-1, y.shape[1]])
        return needed(ctx, [pairs.index_select(deal.order[: deal.kept]).astype(y.dtype), to_weights])


class _Reorder(PyLayer):
    """Rows in another order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.inverse = inverse
        return x.index_select(order)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tuple[Any, ...]:
        return grad.index_select(ctx.inverse), None, None


class _Exchange(PyLayer):
    """Rows to the ranks of a group; gradients back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sent: Sequence[int], received: Sequence[int], group: Group) -> Tensor:
        ctx.ways = (received, sent, group)
        return group.all_to_all(x.contiguous(), sent, received).wait()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        sent, received, group = ctx.ways
        return group.all_to_all(grad.contiguous(), sent, received).wait()
