"""Rows of a context with a hole and of the text that fills it (GLM, arXiv:2103.10360; GLM-130B, arXiv:2210.02414).

A row is context tokens, among them a mask token that marks the hole, then a token that begins the text, then the text.
Tokens of the context see each other, whichever comes first; tokens of the text see the context and the text before
them. A row in which no text begins is all text.
"""

from __future__ import annotations

from typing import Tuple

import paddle
from paddle import Tensor


def context_lengths(input_ids: Tensor, begin: int) -> Tensor:
    """int64 [b]: how many tokens of each row [b, s] stand before the first `begin`; 0 where there is none."""
    return _first(input_ids, begin)[0]


def infilling_mask(lengths: Tensor, seq: int) -> Tensor:
    """Boolean [b, 1, s, s]: true where the token of the third axis sees that of the last one."""
    places = paddle.arange(seq)
    causal = places.unsqueeze(1) >= places.unsqueeze(0)
    context = places.unsqueeze(0) < lengths.unsqueeze(1)
    return causal.unsqueeze([0, 1]) | context.unsqueeze([1, 2])


def infilling_positions(input_ids: Tensor, lengths: Tensor, hole: int, end_hole: int, two: bool) -> Tensor:
    """Positions of the tokens of rows [b, s].

    Args:
        input_ids: int64 [b, s].
        lengths: of the contexts, [b].
        hole: the mask token of a hole within the context.
        end_hole: that of a hole at its end, which wins where a row has both. A row with neither is taken as one that
            has it as the last token of its context.
        two: whether each token has two positions: the place in the context, which for all the text is the hole's, and
            the place in the text from 1 on, 0 in the context. With one only, text in an `end_hole` goes on counting,
            and all text in a `hole` stands at the hole.

    Returns:
        int64 [b, 2, s], or [b, s]
    """
    places = paddle.arange(input_ids.shape[1]).unsqueeze(0).expand(input_ids.shape)
    lengths = lengths.unsqueeze(1)
    in_text = places >= lengths
    within, has_within = _first(input_ids, hole)
    at_end, has_end = _first(input_ids, end_hole)
    last = (lengths - 1).clip(min=0)
    holes = paddle.where(has_end, at_end, paddle.where(has_within, within, last.squeeze(1))).unsqueeze(1)
    first = paddle.where(in_text, holes.expand_as(places), places)
    if two:
        return paddle.stack([first, (places - lengths + 1).clip(min=0)], 1)
    goes_on = has_end | ~has_within
    return paddle.where(goes_on.unsqueeze(1), places, first)


def _first(input_ids: Tensor, token: int) -> Tuple[Tensor, Tensor]:
    """Where `token` stands first in each row, 0 where it doesn't, and whether it does: int64 and boolean [b]."""
    here = (input_ids == token).astype("int64")
    return here.argmax(-1), here.max(-1) > 0
