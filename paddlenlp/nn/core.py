"""From projected queries, keys and values to their weighted sums: what all kinds of attention share."""

from __future__ import annotations

from functools import partial
from typing import Optional

import numpy as np
from paddle import Tensor

from . import kernels
from .batch import Batch
from .position import Rotary
from .recompute import recomputed


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    batch: Batch,
    *,
    position: Optional[Rotary] = None,
    slopes: Optional[np.ndarray] = None,
    scale: Optional[float] = None,
    window: Optional[int] = None,
    dropout: float = 0.0,
) -> Tensor:
    """Causal attention of the heads of this rank over the tokens of this micro batch and the cache.

    Args:
        q: [b, s, h, d].
        k, v: [b, s, hkv, d] and [b, s, hkv, dv].
        position: turns queries and keys.
        slopes: of linear biases (Press et al., arXiv:2108.12409), float32, one for each head of the whole layer.
        scale: factor of q k'; 1 / sqrt(d) if None.
        window: a query sees only keys less than `window` positions back.
        dropout: rate at which probabilities are dropped.

    Returns:
        [b, s, h, dv]
    """
    if position is not None:
        q, k = position(q, k, batch)
    if batch.cache is not None:
        k, v = batch.cache.extend(k, v)
    core = partial(kernels.attention, mask=batch.attention_mask, scale=scale, window=window, dropout=dropout)
    return recomputed(core, q, k, v) if batch.recompute == "core_attn" else core(q, k, v)
