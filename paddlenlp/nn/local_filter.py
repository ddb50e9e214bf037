"""Attention whose queries and keys see the two tokens before them (localised filtering, Yuan 2.0, arXiv:2311.15786)."""

from __future__ import annotations

from functools import partial
from typing import Any

import paddle
from paddle import Tensor, nn

from paddlenlp.parallel import comm
from paddlenlp.parallel.layers import Linear, make_parameter
from paddlenlp.parallel.layout import Fused, Layout, equal_share
from paddlenlp.parallel.neighbours import one_back
from paddlenlp.parallel.topology import topology

from . import kernels
from .batch import Batch
from .core import attend
from .mlp import closing_scale
from .norm import RMSNorm
from .position import Rotary
from .precision import precision
from .recompute import recomputed


class Taps(nn.Layer):
    """y_t = A x_(t-1) + B x_t (+ bias): a convolution over two tokens of a document, the first of which follows zeros.

    The matrices lie in one weight [out, in, 2, 1], as those of a convolution do. Cut as a `Linear` is between whole
    rows: by outputs with a share of the bias, or by inputs, which gives a part of the sum and adds no bias.
    """

    def __init__(self, inputs: int, outputs: int, split: str) -> None:
        super().__init__()
        by_outputs = split == "column"
        self.adds_bias = by_outputs
        self.weight = make_parameter(self, [outputs, inputs, 2, 1], Layout(0 if by_outputs else 1), init_scale=1.0)
        self.bias = make_parameter(self, [outputs], Layout(0) if by_outputs else Layout())

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        """x and `before`, what stands one token before: [tokens, inputs] -> [tokens, outputs], in the compute dtype."""
        weight = precision().to_compute(self.weight)
        bias = precision().to_compute(self.bias) if self.adds_bias else None
        matrix = weight.squeeze(3).transpose([2, 1, 0]).flatten(0, 1)
        return kernels.product(paddle.concat([before, x], -1), matrix, bias)


class LocalFilter(nn.Layer):
    """norm(x + second(first(x))): two convolutions over neighbouring tokens, with half the width between them."""

    def __init__(self, hidden_size: int, eps: float = 1e-6) -> None:
        super().__init__()
        half = hidden_size // 2
        equal_share(half, topology().tp.size, "hidden_size / 2")
        self.conv1, self.conv2 = Taps(hidden_size, half, "column"), Taps(half, hidden_size, "row")
        self.output_layernorm = RMSNorm(hidden_size, eps)

    def forward(self, x: Tensor, batch: Batch) -> Tensor:
        """x [tokens, hidden] -> the same."""
        policy = precision()
        y = comm.enter(policy.to_compute(x))
        y = policy.round(self.conv1(y, self._before(y, batch, "first")))
        y = comm.leave(self.conv2(y, self._before(y, batch, "second")))
        return self.output_layernorm(policy.round(x + y + policy.to_compute(self.conv2.bias)))

    @staticmethod
    def _before(x: Tensor, batch: Batch, name: str) -> Tensor:
        """What stands one token before each of x [tokens, width] in its document, that of a cache included."""
        rows = x.reshape([batch.size, batch.seq, -1])
        first = None if batch.cache is None else batch.cache.replace_last(name, rows)
        before, begins = one_back(rows, first), batch.first_of_document()
        if begins is not None:
            before = before * (~begins).astype(before.dtype).unsqueeze(2)
        return before.reshape(x.shape)


class FilteredAttention(nn.Layer):
    """softmax(q k' / sqrt(d)) v over a token matrix [tokens, hidden], with queries and keys of filtered hidden states
    and values of plain ones; heads are cut over the tensor-parallel ranks.

    The columns of `q_proj` and then of `k_proj` are dealt out to the heads in turn: to each the d of its queries and
    then the d of its keys. So the two are kept as one matrix, `qk_proj`.

    Attributes:
        pair_width: multiplications of a token with another in scores and weighted sums, for all heads together.

    Raises:
        UsageError: the tensor-parallel ranks can't share the heads, or half the hidden states, equally.
    """

    def __init__(self, config: Any, position: Rotary) -> None:
        super().__init__()
        heads, hidden, self.head_dim = config.num_attention_heads, config.hidden_size, config.head_dim
        equal_share(heads, topology().tp.size, "num_attention_heads")
        self.position = position
        width = heads * self.head_dim
        self.pair_width = 2 * width
        self.lf_gate = LocalFilter(hidden)
        self.qk_proj = Linear(hidden, 2 * width, split="column")
        self.qk_proj.weight.fusion = Fused("qk_proj", ("q_proj", "k_proj"), (width, width))
        self.v_proj = Linear(hidden, width, split="column")
        self.o_proj = Linear(width, hidden, split="row", init_scale=closing_scale(config))

    def forward(self, x: Tensor, batch: Batch) -> Tensor:
        if batch.recompute == "full_attn":
            return recomputed(partial(self._attend, batch=batch), x)
        return self._attend(x, batch)

    def _attend(self, x: Tensor, batch: Batch) -> Tensor:
        each = [batch.size, batch.seq, -1, self.head_dim]
        qk = self.qk_proj(self.lf_gate(x, batch)).reshape([batch.size, batch.seq, -1, 2 * self.head_dim])
        q, k = paddle.chunk(qk, 2, -1)
        y = attend(q, k, self.v_proj(x).reshape(each), batch, position=self.position)
        return self.o_proj(y.reshape([batch.size * batch.seq, -1]))
