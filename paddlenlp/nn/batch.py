"""What a layer may look at beside the hidden states."""

from __future__ import annotations

from typing import NamedTuple, Optional

from paddle import Tensor

from .cache import KVCache, LayerCache


class Batch(NamedTuple):
    """Shape, positions and masks of the micro batch that is being read, and how the layer at hand is to run.

    Attributes:
        size, seq: hidden states are [size * seq, hidden], row by row of the batch.
        start: tokens of each row that are in the cache already; without `positions` the row stands at start .. start +
            seq - 1.
        length: the greatest position + 1.
        positions: int64 [size, seq], or None.
        attention_mask: [size, start + seq], true where a key may be seen, on top of the causal rule; or [size | 1,
            heads | 1, seq, start + seq] in place of it; or None.
        cache: the layer's keys and values, while generating.
        recompute: the granularity at which the layer recomputes, or None.
    """

    size: int
    seq: int
    start: int
    length: int
    positions: Optional[Tensor] = None
    attention_mask: Optional[Tensor] = None
    cache: Optional[LayerCache] = None
    recompute: Optional[str] = None


def make_batch(
    input_ids: Tensor,
    position_ids: Optional[Tensor] = None,
    attention_mask: Optional[Tensor] = None,
    cache: Optional[KVCache] = None,
) -> Batch:
    """The Batch of token ids [size, seq], read after what `cache` holds."""
    size, seq = input_ids.shape
    start = 0 if cache is None else cache.length
    length = start + seq if position_ids is None else int(position_ids.max()) + 1
    return Batch(size, seq, start, length, position_ids, attention_mask)
