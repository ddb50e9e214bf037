"""Documents that lie one behind the other in a row: where they begin, and who sees whom."""

from __future__ import annotations

from typing import Optional, Tuple

import paddle
from paddle import Tensor
from paddle.nn import functional as F


class Documents:
    """The bounds of the documents in whole rows of tokens, beyond which attention does not look.

    Args:
        numbers: integers [b, t] that differ between neighbouring tokens where, and only where, a document begins, and
            never fall along a row. t are the tokens of whole rows, those of a cache included.
    """

    def __init__(self, numbers: Tensor) -> None:
        self.numbers = numbers
        self._sequences: Optional[Tuple[Tensor, int]] = None
        self._starts: Optional[Tensor] = None

    def same(self, queries: slice, keys: slice) -> Tensor:
        """Boolean [b, queries, keys]: whether the tokens at these places belong to the same document."""
        return self.numbers[:, queries].unsqueeze(2) == self.numbers[:, keys].unsqueeze(1)

    def begins(self) -> Tensor:
        """Boolean [b, t]: whether a token is the first of its document in its row."""
        first = paddle.ones_like(self.numbers[:, :1], "bool")
        return paddle.concat([first, self.numbers[:, 1:] != self.numbers[:, :-1]], 1)

    def ends(self) -> Tensor:
        """Boolean [b, t]: whether a token is the last of its document in its row."""
        last = paddle.ones_like(self.numbers[:, :1], "bool")
        return paddle.concat([self.numbers[:, 1:] != self.numbers[:, :-1], last], 1)

    def starts(self) -> Tensor:
        """The place in its row where the document of each token begins: int32 [b, t]. Found once."""
        if self._starts is None:
            places = paddle.arange(self.numbers.shape[1]).expand_as(self.numbers)
            begins = paddle.where(self.begins(), places, paddle.zeros_like(places))
            self._starts = paddle.cummax(begins, 1)[0].astype("int32")
        return self._starts

    def sequences(self) -> Tuple[Tensor, int]:
        """Where the documents begin among the tokens [b * t] of all rows, int32 [documents + 1] with the number of
        tokens as the last one; and the length of the longest. Found once: on a GPU it is waited for."""
        if self._sequences is None:
            begins = self.begins().reshape([-1])
            offsets = F.pad(paddle.nonzero(begins).reshape([-1]), [0, 1], value=begins.shape[0])
            self._sequences = offsets.astype("int32"), int((offsets[1:] - offsets[:-1]).max())
        return self._sequences
