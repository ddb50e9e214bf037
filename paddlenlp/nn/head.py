"""The output head: hidden states to logits, or straight to the loss."""

from __future__ import annotations

from typing import Tuple

import paddle
from paddle import Tensor, nn

from paddlenlp.parallel.layers import Embedding, make_parameter
from paddlenlp.parallel.layout import Layout

from . import kernels
from .precision import precision


class LMHead(nn.Layer):
    """Scores of every token of the vocabulary, cut over the vocabulary. A tied head owns no weight: it uses the
    embedding's.

    Args:
        hidden_size, vocab_size: sizes of the whole matrix.
        tied: whether `tie` will give it an embedding to share the weight of.
    """

    def __init__(self, hidden_size: int, vocab_size: int, tied: bool = False) -> None:
        super().__init__()
        self.tied = tied
        self._source: Tuple[Embedding, ...] = ()
        if not tied:
            self.weight = make_parameter(self, [hidden_size, vocab_size], Layout(1), init_scale=1.0)
            self.weight.transposed = True

    def tie(self, embedding: Embedding) -> None:
        """Share the weight of `embedding`, which stays the one that owns it."""
        self._source = (embedding,)  # in a tuple, so that it is not registered as a sublayer with names of its own

    @property
    def matrix(self) -> Tensor:
        """[hidden, vocab], or [vocab, hidden] where tied."""
        return self._source[0].weight if self.tied else self.weight

    def forward(self, x: Tensor) -> Tensor:
        """Logits [tokens, vocab] of x [tokens, hidden]."""
        if not self.tied:
            return kernels.linear(x, self.weight)
        policy = precision()
        product = paddle.matmul(policy.to_compute(x), policy.to_compute(self.matrix), transpose_y=True)
        return policy.round(product)

    def loss(self, x: Tensor, labels: Tensor) -> Tensor:
        """Sum of the cross entropies of x [tokens, hidden] at labels [tokens] that are not -100: float32
        scalar."""
        return kernels.head_loss(x, self.matrix, labels, transpose=self.tied)
