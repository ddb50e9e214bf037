"""Where a token stands, as a vector that is learned for each position."""

from __future__ import annotations

import paddle
from paddle import Tensor

from paddlenlp.parallel import comm
from paddlenlp.parallel.dropout import dropout
from paddlenlp.parallel.layers import make_parameter
from paddlenlp.utils.errors import UsageError

from . import kernels
from .batch import Batch
from .precision import precision
from .staged import BatchStage


class LearnedPositions(BatchStage):
    """The stage after the embedding: adds to each token the row of a table for its position.

    The table is whole on every rank. It is looked up for the rows that this rank has.

    Args:
        length: positions that there are rows for.
        hidden_size: width of a row.
        offset: rows of the table before that of position 0.
        dropout: rate at which elements of the sums are dropped in training.
    """

    def __init__(self, length: int, hidden_size: int, offset: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        self.length, self.offset, self.dropout = length, offset, dropout
        self.weight = make_parameter(self, [length + offset, hidden_size], init_scale=1.0)

    def forward(self, x: Tensor, batch: Batch) -> Tensor:
        """x [tokens, hidden] with the vectors of the positions of `batch` added.

        Raises:
            UsageError: there is no vector for a position.
        """
        if batch.length > self.length:
            raise UsageError(
                f"a sequence reaches position {batch.length - 1}, and the model has learned vectors for positions 0 to "
                f"{self.length - 1} (max_position_embeddings={self.length}): use shorter sequences, or train a model "
                "with more positions"
            )
        rows = kernels.embedding(comm.own_rows(self._positions(batch)) + self.offset, self.weight)
        return dropout(precision().round(x + rows), self.dropout, self.training)

    def _positions(self, batch: Batch) -> Tensor:
        """int64 [tokens], of all tensor-parallel ranks."""
        if batch.positions is None:
            positions = paddle.arange(batch.start, batch.start + batch.seq, dtype="int64").unsqueeze(0)
        else:
            positions = batch.positions
        return positions.expand([batch.size, batch.seq]).reshape([-1])
