"""The output head: hidden states to logits, or straight to the loss."""

from __future__ import annotations

from typing import Any, List, Tuple

import paddle
from paddle import Tensor, nn
from paddle.autograd import PyLayer

from paddlenlp.parallel import comm
from paddlenlp.parallel.layers import Embedding, make_parameter
from paddlenlp.parallel.layout import Layout
from paddlenlp.parallel.topology import topology
from paddlenlp.utils.pylayer import save

from . import kernels
from .precision import precision

SHORTEST = 1e-12
"""A shorter vector is divided by this."""


class LMHead(nn.Layer):
    """Scores of every token of the vocabulary, cut over the vocabulary. A tied head owns no weight: it uses the
    embedding's.

    Args:
        hidden_size, vocab_size: sizes of the whole matrix.
        tied: whether `tie` will give it an embedding to share the weight of.
        normalised: each token's vector of the matrix is divided by its length.
    """

    def __init__(self, hidden_size: int, vocab_size: int, tied: bool = False, normalised: bool = False) -> None:
        super().__init__()
        self.tied, self.normalised = tied, normalised
        self._source: Tuple[Embedding, ...] = ()
        if not tied:
            self.weight = make_parameter(self, [hidden_size, vocab_size], Layout(1), init_scale=1.0)
            self.weight.transposed = True

    def tie(self, embedding: Embedding) -> None:
        """Share the weight of `embedding`, which stays the one that owns it."""
        self._source = (embedding,)  # in a tuple, so that it is not registered as a sublayer with names of its own

    @property
    def borrowed(self) -> List[Tensor]:
        """The parameters of others that this stage computes with."""
        return [self.matrix] if self.tied else []

    @property
    def matrix(self) -> Tensor:
        """[hidden, vocab], or [vocab, hidden] where tied."""
        return self._source[0].weight if self.tied else self.weight

    def forward(self, x: Tensor) -> Tensor:
        """Logits [tokens, vocab] of x [tokens, hidden]; with `parallel_output` of the topology, only the columns of
        this rank."""
        return self._own_logits(x) if topology().parallel_output else self.whole_logits(x)

    def whole_logits(self, x: Tensor) -> Tensor:
        """Logits [tokens, vocab] of x [tokens, hidden], on every rank."""
        return comm.widen(self._own_logits(x), topology().tp.group)

    def loss(self, x: Tensor, labels: Tensor) -> Tensor:
        """Sum of the cross entropies of x [tokens, hidden] at labels [tokens] that are not -100: float32
        scalar, the same on every tensor-parallel rank. Logits are not gathered.

        Under sequence parallelism x are this rank's rows; labels are always those of all tokens.
        """
        x = comm.enter(precision().to_compute(x))
        return kernels.head_loss(x, self._multiplier(), labels, transpose=self.tied, group=topology().tp.group)

    def _own_logits(self, x: Tensor) -> Tensor:
        policy = precision()
        x = comm.enter(policy.to_compute(x))
        return policy.round(paddle.matmul(x, policy.to_compute(self._multiplier()), transpose_y=self.tied))

    def _multiplier(self) -> Tensor:
        """What hidden states are multiplied by: `matrix`, or its vectors of unit length."""
        if not self.normalised:
            return self.matrix
        policy = precision()
        return policy.round(_UnitVectors.apply(policy.to_compute(self.matrix), 1 if self.tied else 0))


class _UnitVectors(PyLayer):
    """Vectors along `axis` divided by their lengths.

    Keeps its result and not the matrix, which sharding stage 3 may have freed when this backward pass comes: nothing
    but the gradient waits for it.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, axis: int) -> Tensor:
        wide = matrix.astype("float32")
        lengths = (wide * wide).sum(axis, keepdim=True).sqrt().clip(min=SHORTEST)
        units = (wide / lengths).astype(matrix.dtype)
        ctx.axis = axis
        save(ctx, units.detach(), lengths)
        return units

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        units, lengths = ctx.saved_tensor()
        wide, units = grad.astype("float32"), units.astype("float32")
        along = (wide * units).sum(ctx.axis, keepdim=True)
        return ((wide - units * along) / lengths).astype(grad.dtype)
