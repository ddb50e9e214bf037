"""Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1)."""

from __future__ import annotations

from functools import partial
from typing import Any, Optional, Tuple

import paddle
from paddle import Tensor, nn

from paddlenlp.parallel.comm import enter
from paddlenlp.parallel.layers import Linear
from paddlenlp.parallel.layout import equal_share
from paddlenlp.parallel.topology import topology

from .batch import Batch
from .core import attend
from .mlp import closing_scale
from .norm import RMSNorm
from .position import Rotary
from .recompute import recomputed


class LatentAttention(nn.Layer):
    """Attention whose keys and values are made of one narrow vector a token, and whose positions stand in features of
    their own, which all key heads share.

    Heads are cut over the tensor-parallel ranks. The matrices that make the narrow vectors are whole on every rank;
    the vectors enter the cut work together, once.

    Args:
        config: for its sizes: `q_lora_rank` (None: queries are made of the hidden states at once), `kv_lora_rank`,
            `qk_nope_head_dim`, `qk_rope_head_dim`, `v_head_dim`.
        position: turns the features that say where a token stands.
        bias: whether the matrices that read or write hidden states have biases (but `q_proj`, as in Hugging Face
            transformers).
        scale: factor of q k'; 1 / sqrt(qk_nope_head_dim + qk_rope_head_dim) if None.
        dropout: rate at which attention probabilities are dropped in training.

    Attributes:
        pair_width: multiplications of a token with another in scores and weighted sums, for all heads together.

    Raises:
        UsageError: the tensor-parallel ranks can't share the heads equally.
    """

    def __init__(
        self,
        config: Any,
        position: Rotary,
        *,
        bias: bool = False,
        scale: Optional[float] = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        heads, hidden = config.num_attention_heads, config.hidden_size
        equal_share(heads, topology().tp.size, "num_attention_heads")
        self.position, self.scale, self.dropout = position, scale, dropout
        self.plain, self.turned, self.value = config.qk_nope_head_dim, config.qk_rope_head_dim, config.v_head_dim
        self.q_rank, self.kv_rank = config.q_lora_rank, config.kv_lora_rank
        self.pair_width = heads * (self.plain + self.turned + self.value)
        q = heads * (self.plain + self.turned)
        if self.q_rank is None:
            self.q_proj = Linear(hidden, q, split="column")
        else:
            self.q_a_proj = Linear(hidden, self.q_rank, bias)
            self.q_a_layernorm = RMSNorm(self.q_rank)
            self.q_b_proj = Linear(self.q_rank, q, split="column", entered=True)
        self.kv_a_proj_with_mqa = Linear(hidden, self.kv_rank + self.turned, bias)
        self.kv_a_layernorm = RMSNorm(self.kv_rank)
        self.kv_b_proj = Linear(self.kv_rank, heads * (self.plain + self.value), split="column", entered=True)
        self.o_proj = Linear(heads * self.value, hidden, bias, "row", init_scale=closing_scale(config))

    def forward(self, x: Tensor, batch: Batch) -> Tensor:
        if batch.recompute == "full_attn":
            return recomputed(partial(self._attend, batch=batch), x)
        return self._attend(x, batch)

    def _attend(self, x: Tensor, batch: Batch) -> Tensor:
        q, latent, turned = self._vectors(x)
        q, k, v = self._heads(q, latent, turned, batch)
        y = attend(q, k, v, batch, scale=self.scale, dropout=self.dropout if self.training else 0.0)
        return self.o_proj(y.reshape([batch.size * batch.seq, -1]))

    def _vectors(self, x: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
        """Queries of this rank's heads, what keys and values are made of, and the keys' position features: all rows."""
        latent, turned = paddle.split(self.kv_a_proj_with_mqa(x), [self.kv_rank, self.turned], -1)
        narrow = [self.kv_a_layernorm(latent), turned]
        if self.q_rank is None:
            latent, turned = paddle.split(enter(paddle.concat(narrow, -1)), [self.kv_rank, self.turned], -1)
            return self.q_proj(x), latent, turned
        narrow.append(self.q_a_layernorm(self.q_a_proj(x)))
        widths = [self.kv_rank, self.turned, self.q_rank]
        latent, turned, q = paddle.split(enter(paddle.concat(narrow, -1)), widths, -1)
        return self.q_b_proj(q), latent, turned

    def _heads(self, q: Tensor, latent: Tensor, turned: Tensor, batch: Batch) -> Tuple[Tensor, Tensor, Tensor]:
        """Queries and keys [b, s, heads, plain + turned], values [b, s, heads, value] (of this rank)."""
        rows = [batch.size, batch.seq]
        q = q.reshape([*rows, -1, self.plain + self.turned])
        q_plain, q_turned = paddle.split(q, [self.plain, self.turned], -1)
        kv = self.kv_b_proj(latent).reshape([*rows, -1, self.plain + self.value])
        k_plain, v = paddle.split(kv, [self.plain, self.value], -1)
        q_turned, k_turned = self.position(q_turned, turned.reshape([*rows, 1, self.turned]), batch)
        k_turned = k_turned.expand([*rows, k_plain.shape[2], self.turned])
        return paddle.concat([q_plain, q_turned], -1), paddle.concat([k_plain, k_turned], -1), v
