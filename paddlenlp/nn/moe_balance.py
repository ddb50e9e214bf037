"""The loss that keeps the load of the experts even: it acts through its gradient and is in no loss that is reported.

For each sequence of T tokens, of which each chooses k of E experts with scores s, which sum to 1 for each token
(arXiv:2405.04434, eq. 23 to 25; arXiv:2412.19437, eq. 17 to 20):

    coefficient * sum over experts i of f_i P_i,    f_i = E / (k T) * tokens that chose i,    P_i = mean of s_i

f has no gradient, so that of a score is coefficient * f_i / T. The loss is taken of each sequence by itself and
averaged over the sequences of the global batch, so that it does not depend on how a batch is split.
"""

from __future__ import annotations

from typing import Any, Optional, Tuple

import paddle
from paddle import Tensor
from paddle.autograd import PyLayer
from paddle.nn import functional as F

from paddlenlp.parallel.topology import topology
from paddlenlp.utils.pylayer import needed, note_frozen

_factor: Optional[float] = None


def set_balance_factor(factor: Optional[float]) -> None:
    """What the balance loss of one sequence weighs in the gradients: their scale / sequences of the global batch.

    Set by `train_batch` for its duration. None: 1 / sequences of the micro batch, for a backward pass on its own.
    """
    global _factor
    _factor = factor


def balanced(weights: Tensor, scores: Tensor, chosen: Tensor, sequences: int, coefficient: float) -> Tensor:
    """`weights`, whose backward pass adds the gradient of the balance loss to that of `scores`.

    Args:
        weights: float32 [tokens, k], which depend on `scores`.
        scores: float32 [tokens, experts].
        chosen: int64 [tokens, k].
        sequences: that the tokens of this rank, or with sequence parallelism of its tensor-parallel line, are part of.
        coefficient: of the loss.
    """
    factor = 1.0 / sequences if _factor is None else _factor
    return _Inject.apply(weights, scores, _slopes(scores, chosen, sequences, coefficient * factor))


@paddle.no_grad()
def _slopes(scores: Tensor, chosen: Tensor, sequences: int, coefficient: float) -> Tensor:
    """The gradient of the balance loss at `scores`."""
    mesh, (tokens, experts) = topology(), scores.shape
    ranks = mesh.tp.size if mesh.sequence_parallel else 1
    length = tokens * ranks // sequences  # tokens of a sequence on this rank, or on its tensor-parallel line
    first = mesh.tp.rank * tokens if mesh.sequence_parallel else 0
    sequence_of = (paddle.arange(tokens) + first) // length
    member = F.one_hot(sequence_of, sequences)
    load = paddle.matmul(member, F.one_hot(chosen, experts).sum(1), transpose_x=True)
    if mesh.sequence_parallel:
        load = mesh.tp.group.all_reduce(load).wait()
    load = mesh.sequence.group.all_reduce(load).wait()
    length *= mesh.sequence.size
    return load.index_select(sequence_of) * (coefficient * experts / (chosen.shape[1] * length * length))


class _Inject(PyLayer):
    """Gives `weights` as they are, and `slopes` as the gradient of `scores`."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, scores: Tensor, slopes: Tensor) -> Tensor:
        note_frozen(ctx, weights, scores)
        ctx.slopes = slopes
        return weights.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tuple[Any, ...]:
        return (*needed(ctx, [grad, ctx.slopes]), None)
