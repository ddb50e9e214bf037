"""What happens to hidden states between the layers, under the names by which families import it."""

from __future__ import annotations

from paddle import Tensor, nn

from paddlenlp.parallel.dropout import dropout

__all__ = ["Dropout", "dropout"]


class Dropout(nn.Layer):
    """A stage that drops elements of hidden states in training, at this rate."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.rate, self.training)
