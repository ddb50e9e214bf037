"""Multi-head, grouped and multi-query attention."""

from __future__ import annotations

from functools import partial
from typing import Any, Optional, Tuple

import paddle
from paddle import Tensor, nn

from paddlenlp.parallel.layers import Linear
from paddlenlp.parallel.layout import Fused

from .batch import Batch
from .core import attend
from .position import Rotary
from .recompute import recomputed


class Attention(nn.Layer):
    """softmax(q k' / sqrt(d)) v over a token matrix [tokens, hidden]; heads are cut over the tensor-parallel ranks.

    Args:
        config: for its sizes.
        position: rotates queries and keys, or None.
        qkv_bias, out_bias: whether the projections have biases.
        fused: keep queries, keys and values in one matrix `qkv_proj`, one group of columns for each key head.
        window: a query sees only keys less than `window` positions back.
        dropout: rate at which attention probabilities are dropped in training.
    """

    def __init__(
        self,
        config: Any,
        position: Optional[Rotary] = None,
        *,
        qkv_bias: bool = False,
        out_bias: bool = False,
        fused: bool = False,
        window: Optional[int] = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        heads, kv_heads, self.head_dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        hidden, q, kv = config.hidden_size, heads * self.head_dim, kv_heads * self.head_dim
        self.position, self.window, self.dropout = position, window, dropout
        self.fused, self.heads_per_key = fused, heads // kv_heads
        fusion = Fused("qkv_proj", ("q_proj", "k_proj", "v_proj"), (q, kv, kv), kv_heads)
        if fused:
            self.qkv_proj = Linear(hidden, q + 2 * kv, qkv_bias, "column", fusion)
        else:
            self.q_proj = Linear(hidden, q, qkv_bias, "column", fusion)
            self.k_proj = Linear(hidden, kv, qkv_bias, "column", fusion)
            self.v_proj = Linear(hidden, kv, qkv_bias, "column", fusion)
        self.o_proj = Linear(q, hidden, out_bias, "row", init_scale=(2 * config.num_hidden_layers) ** -0.5)

    def forward(self, x: Tensor, batch: Batch) -> Tensor:
        if batch.recompute == "full_attn":
            return recomputed(partial(self._attend, batch=batch), x)
        return self._attend(x, batch)

    def _attend(self, x: Tensor, batch: Batch) -> Tensor:
        q, k, v = self._project(x, batch)
        dropout = self.dropout if self.training else 0.0
        y = attend(q, k, v, batch, position=self.position, window=self.window, dropout=dropout)
        return self.o_proj(y.reshape([batch.size * batch.seq, -1]))

    def _project(self, x: Tensor, batch: Batch) -> Tuple[Tensor, Tensor, Tensor]:
        """Queries [b, s, heads, d], keys and values [b, s, kv heads, d] (of this rank)."""
        each = [batch.size, batch.seq, -1, self.head_dim]
        if not self.fused:
            return self.q_proj(x).reshape(each), self.k_proj(x).reshape(each), self.v_proj(x).reshape(each)
        n = self.heads_per_key
        y = self.qkv_proj(x).reshape([batch.size, batch.seq, -1, n + 2, self.head_dim])
        q, k, v = paddle.split(y, [n, 1, 1], 3)
        return q.reshape(each), k.reshape(each), v.reshape(each)
