"""Segment parallelism in attention (DeepSpeed-Ulysses, arXiv:2309.14509): a share of the sequence with all heads
becomes the whole sequence with a share of the heads, and back.

For n ranks, h query heads and hkv key heads of this tensor-parallel rank, d and dv features, and u = gcd(h / n, h /
hkv) query heads that read the same key head on the same rank, one layer puts b * s / n * (h d + h / u (d + dv))
elements of queries, keys and values into one all-to-all, and b * s / n * h dv of results into another; 1 / n of each
stays where it is. The backward pass moves as much. h / u = hkv where n divides hkv.
"""

from __future__ import annotations

from math import gcd
from typing import List, Tuple

import paddle
from paddle import Tensor

from paddlenlp.parallel.sequence import exchange
from paddlenlp.parallel.topology import topology
from paddlenlp.utils.errors import UsageError


def to_heads(q: Tensor, k: Tensor, v: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values [b, s / n, heads, d] of own tokens -> [b, s, own heads, d] of all tokens.

    Key heads that the queries of several ranks read are sent to each of them; their gradients are summed at home.

    Raises:
        UsageError: n ranks can't share the query heads equally.
    """
    axis = topology().sep
    if axis.size == 1:
        return q, k, v
    kept = _key_heads(q.shape[2], k.shape[2], axis.size)
    if kept != list(range(k.shape[2])):
        index = paddle.to_tensor(kept, "int64")
        k, v = paddle.index_select(k, index, 2), paddle.index_select(v, index, 2)
    # One message: of each rank's heads the queries, keys and values of a token lie side by side.
    blocks = [_of_ranks(x, axis.size) for x in (q, k, v)]
    y = exchange(paddle.concat(blocks, -1).transpose([2, 0, 1, 3]), axis.group)
    n, b, s, _ = y.shape
    y = y.transpose([1, 0, 2, 3]).reshape([b, n * s, -1])
    parts = paddle.split(y, [block.shape[-1] for block in blocks], -1)
    q, k, v = (part.reshape([b, n * s, -1, x.shape[-1]]) for part, x in zip(parts, (q, k, v)))
    return q, k, v


def to_sequence(y: Tensor) -> Tensor:
    """Results [b, s, own heads, d] of all tokens -> [b, s / n, heads, d] of own tokens."""
    axis = topology().sep
    if axis.size == 1:
        return y
    b, s, heads, d = y.shape
    y = exchange(y.reshape([b, axis.size, -1, heads, d]).transpose([1, 0, 2, 3, 4]), axis.group)
    return y.transpose([1, 2, 0, 3, 4]).reshape([b, s // axis.size, -1, d])


def _of_ranks(x: Tensor, ranks: int) -> Tensor:
    """[b, s, heads, d] -> [b, s, ranks, features of the heads of one rank]."""
    b, s, heads, d = x.shape
    return x.reshape([b, s, ranks, heads // ranks * d])


def _key_heads(heads: int, key_heads: int, ranks: int) -> List[int]:
    """The key heads that the ranks' queries read, rank by rank, each serving equally many queries of its rank."""
    if heads % ranks:
        raise UsageError(
            f"sep_parallel_degree={ranks} can't share {heads} attention heads equally (num_attention_heads / "
            f"tensor_parallel_degree): set it to a divisor of {heads}"
        )
    readers = heads // key_heads
    run = gcd(heads // ranks, readers)
    return [first // readers for first in range(0, heads, run)]
