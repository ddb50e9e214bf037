"""From projected queries, keys and values to their weighted sums: what all kinds of attention share."""

from __future__ import annotations

from functools import partial
from typing import Any, Optional

import numpy as np
from paddle import Tensor

from paddlenlp.parallel.topology import topology
from paddlenlp.utils.errors import UsageError

from . import kernels
from .batch import Batch
from .blocks import Rule
from .exchange import to_heads, to_sequence
from .position import Rotary
from .precision import precision
from .recompute import recomputed
from .ring import ring_attention


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
    """Causal attention of the heads of this rank over the tokens of this micro batch and the cache, within documents.

    Where ranks share each row, s is what this rank holds of it, and the result is that of whole rows.

    Args:
        q: [b, s, h, d].
        k, v: [b, s, hkv, d] and [b, s, hkv, dv].
        position: turns queries and keys.
        slopes: of linear biases (Press et al., arXiv:2108.12409), float32, one for each head of the whole layer: the
            score of a key that is n places before the query falls by n slopes.
        scale: factor of q k'; 1 / sqrt(d) if None.
        window: a query sees only keys less than `window` positions back.
        dropout: rate at which probabilities are dropped.

    Returns:
        [b, s, h, dv]

    Raises:
        UsageError: ranks share each row in a way that does not go with the number of heads or with dropout.
    """
    if position is not None:
        q, k = position(q, k, batch)
    if batch.cache is not None:
        k, v = batch.cache.extend(k, v)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    q, k, v = to_heads(q, k, v)
    mask, slopes = _own_heads(batch.attention_mask, slopes, q.shape[2])
    if topology().cp.size > 1:  # keeps nothing that recomputing would save
        return _around_ring(q, k, v, Rule(scale, window, slopes, mask, batch.documents), dropout)
    core = partial(
        kernels.attention,
        slopes=slopes,
        mask=mask,
        documents=batch.documents,
        scale=scale,
        window=window,
        dropout=dropout,
    )
    return to_sequence(recomputed(core, q, k, v) if batch.recompute == "core_attn" else core(q, k, v))


def _around_ring(q: Tensor, k: Tensor, v: Tensor, rule: Rule, dropout: float) -> Tensor:
    axis = topology().cp
    if dropout:
        raise UsageError(
            f"attention dropout is {dropout}, which ring attention (context_parallel_degree={axis.size}) does not "
            "have: set attention_probs_dropout_prob=0, or use sep_parallel_degree instead of context_parallel_degree"
        )
    return precision().round(ring_attention(q, k, v, rule, axis.group))


def _own_heads(mask: Optional[Tensor], slopes: Optional[np.ndarray], heads: int) -> Any:
    """Mask and slopes of the heads of this rank: its tensor-parallel block, and of that its part under sep."""
    mesh = topology()
    first = (mesh.tp.rank * mesh.sep.size + mesh.sep.rank) * heads
    own = slice(first, first + heads)
    if mask is not None and mask.ndim == 4 and mask.shape[1] > 1:
        mask = mask[:, own]
    return mask, None if slopes is None else slopes[own]
