"""Multi-head, grouped and multi-query attention."""

from __future__ import annotations

from functools import partial
from typing import Any, Optional, Tuple

import numpy as np
import paddle
from paddle import Tensor, nn

from paddlenlp.parallel.layers import Linear, columns
from paddlenlp.parallel.layout import Fused, equal_share
from paddlenlp.parallel.topology import topology

from .batch import Batch
from .core import attend
from .mlp import closing_scale
from .position import Rotary
from .recompute import recomputed


class Attention(nn.Layer):
    """softmax(q k' / sqrt(d)) v over a token matrix [tokens, hidden]; heads are cut over the tensor-parallel ranks.

    Where there are fewer key heads than ranks, each rank has the one that its queries read.

    Args:
        config: for its sizes.
        position: rotates queries and keys, or None.
        qkv_bias, out_bias: whether the projections have biases.
        fused: keep queries, keys and values in one matrix, one group of columns for each key head.
        blocks: the fused matrix has all queries, then all keys, then all values instead.
        window: a query sees only keys less than `window` positions back.
        slopes: of linear biases, one for each head of the whole layer; see `core.attend`.
        dropout: rate at which attention probabilities are dropped in training.
        fused_name, out_name: attribute names of the fused projection and of the output projection.

    Attributes:
        pair_width: multiplications of a token with another in scores and weighted sums, for all heads together.

    Raises:
        UsageError: the tensor-parallel ranks cannot share the heads.
    """

    def __init__(
        self,
        config: Any,
        position: Optional[Rotary] = None,
        *,
        qkv_bias: bool = False,
        out_bias: bool = False,
        fused: bool = False,
        blocks: bool = False,
        window: Optional[int] = None,
        slopes: Optional[np.ndarray] = None,
        dropout: float = 0.0,
        fused_name: str = "qkv_proj",
        out_name: str = "o_proj",
    ) -> None:
        super().__init__()
        heads, kv_heads, self.head_dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        hidden, q, kv = config.hidden_size, heads * self.head_dim, kv_heads * self.head_dim
        self.position, self.window, self.slopes, self.dropout = position, window, slopes, dropout
        own_heads = equal_share(heads, topology().tp.size, "num_attention_heads")
        self.heads_per_key = min(heads // kv_heads, own_heads)
        self.pair_width = 2 * q
        self.fused_name, self.out_name = fused_name if fused else None, out_name
        self.blocks = blocks
        fusion = Fused(fused_name, ("q_proj", "k_proj", "v_proj"), (q, kv, kv), 1 if blocks else kv_heads)
        if fused:
            whole = Linear(hidden, q + 2 * kv, qkv_bias, "column", fusion, units=(0, kv_heads, kv_heads))
            self.add_sublayer(fused_name, whole)
        else:
            self.q_proj = Linear(hidden, q, qkv_bias, "column", fusion)
            self.k_proj = Linear(hidden, kv, qkv_bias, "column", fusion, units=(kv_heads,))
            self.v_proj = Linear(hidden, kv, qkv_bias, "column", fusion, units=(kv_heads,))
        self.add_sublayer(out_name, Linear(q, hidden, out_bias, "row", init_scale=closing_scale(config)))

    def forward(self, x: Tensor, batch: Batch) -> Tensor:
        if batch.recompute == "full_attn":
            return recomputed(partial(self._attend, batch=batch), x)
        return self._attend(x, batch)

    def _attend(self, x: Tensor, batch: Batch) -> Tensor:
        q, k, v = self._project(x, batch)
        y = attend(
            *(q, k, v, batch),
            position=self.position,
            slopes=self.slopes,
            window=self.window,
            dropout=self.dropout if self.training else 0.0,
        )
        return getattr(self, self.out_name)(y.reshape([batch.size * batch.seq, -1]))

    def _project(self, x: Tensor, batch: Batch) -> Tuple[Tensor, Tensor, Tensor]:
        """Queries [b, s, heads, d], keys and values [b, s, kv heads, d] (of this rank)."""
        each = [batch.size, batch.seq, -1, self.head_dim]
        if self.fused_name is None:
            q, k, v = columns(x, [self.q_proj, self.k_proj, self.v_proj])
        else:
            n, y = self.heads_per_key, getattr(self, self.fused_name)(x)
            # Queries are n parts of n + 2, keys and values one each: of every group of columns, or of all columns.
            groups = [n + 2, y.shape[-1] // (n + 2)] if self.blocks else [-1, n + 2, self.head_dim]
            q, k, v = paddle.split(y.reshape([batch.size, batch.seq, *groups]), [n, 1, 1], len(groups))
        return q.reshape(each), k.reshape(each), v.reshape(each)
