"""Positions of sequences that are longer than those of training."""

from __future__ import annotations

import math
from typing import Any, Tuple

import paddle
from paddle import Tensor, nn

from .batch import Batch
from .position import Rotary
from .precision import precision


class LogScaled:
    """Turns queries and keys, and lets the queries beyond the trained length grow, so that attention over more keys
    stays as sharp: by log(n) / log(trained length) for the n-th token (Su, https://kexue.fm/archives/8823).

    Args:
        rotary: what turns them.
        trained_length: tokens of the longest sequence of training, at least 2.
    """

    def __init__(self, rotary: Rotary, trained_length: int) -> None:
        self._rotary, self._trained = rotary, trained_length

    def __call__(self, q: Tensor, k: Tensor, batch: Batch) -> Tuple[Tensor, Tensor]:
        """q [b, s, heads, d] and k [b, s, kv heads, d], turned and scaled by the positions of `batch`."""
        q, k = self._rotary(q, k, batch)
        if batch.length <= self._trained:
            return q, k
        positions = batch.positions
        if positions is None:
            positions = paddle.arange(batch.start, batch.start + batch.seq).unsqueeze(0)
        factors = (paddle.log(positions.astype("float32") + 1) / math.log(self._trained)).clip(min=1.0)
        return precision().round(q * factors.unsqueeze([2, 3]).astype(q.dtype)), k


class TrainOrEval(nn.Layer):
    """Turns queries and keys by one object in training and by another one in evaluation."""

    def __init__(self, training: Any, evaluation: Any) -> None:
        super().__init__()
        self.in_training, self._in_evaluation = training, evaluation

    def forward(self, q: Tensor, k: Tensor, batch: Batch) -> Tuple[Tensor, Tensor]:
        return (self.in_training if self.training else self._in_evaluation)(q, k, batch)
