"""The attention layer around the kernels."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from paddlenlp.nn import Attention
from paddlenlp.nn.batch import Batch

CONFIG = SimpleNamespace(hidden_size=12, num_attention_heads=6, num_key_value_heads=2, head_dim=4, num_hidden_layers=1)
ROWS, TOKENS = 2, 9


def filled(**options):
    layer = Attention(CONFIG, **options)
    paddle.seed(0)
    for param in layer.parameters():
        param.set_value(paddle.randn(param.shape))
    return layer


def expected(layer, x, window=TOKENS):
    """One head and one query at a time, in float64."""
    q, k, v = (
        (paddle.matmul(x, p.weight) + (0 if p.bias is None else p.bias)).numpy().astype(np.float64)
        for p in (layer.q_proj, layer.k_proj, layer.v_proj)
    )
    y = np.zeros((ROWS * TOKENS, 24))
    for row in range(ROWS):
        for head in range(6):
            mine, theirs = slice(4 * head, 4 * head + 4), slice(4 * (head // 3), 4 * (head // 3) + 4)
            for i in range(TOKENS):
                seen = [row * TOKENS + j for j in range(max(0, i - window + 1), i + 1)]
                scores = np.exp(k[seen][:, theirs] @ q[row * TOKENS + i, mine] / 2)
                y[row * TOKENS + i, mine] = scores @ v[seen][:, theirs] / scores.sum()
    y = y @ layer.o_proj.weight.numpy()
    return y if layer.o_proj.bias is None else y + layer.o_proj.bias.numpy()


@pytest.mark.parametrize("options", [{}, {"qkv_bias": True}, {"qkv_bias": True, "out_bias": True}, {"window": 4}])
def test_equals_one_query_at_a_time(options):
    layer, x = filled(**options), paddle.randn([ROWS * TOKENS, 12]) * 0.3
    found = layer(x, Batch(ROWS, TOKENS, 0, TOKENS)).numpy()
    np.testing.assert_allclose(found, expected(layer, x, options.get("window", TOKENS)), rtol=1e-4, atol=1e-4)
    biases = sum(name.endswith("bias") for name, _ in layer.named_parameters())
    assert biases == 3 * options.get("qkv_bias", False) + options.get("out_bias", False)


@pytest.mark.parametrize("blocks", [False, True])
def test_fused_matrix_in_groups_or_in_blocks(blocks):
    apart, x = filled(qkv_bias=True), paddle.randn([ROWS * TOKENS, 12]) * 0.3
    fused = Attention(CONFIG, qkv_bias=True, fused=True, blocks=blocks, fused_name="pack")
    fused.o_proj.weight.set_value(apart.o_proj.weight)
    for kind in ("weight", "bias"):
        parts = [getattr(layer, kind).numpy() for layer in (apart.q_proj, apart.k_proj, apart.v_proj)]
        groups = [np.split(part, 1 if blocks else 2, -1) for part in parts]  # two key heads
        whole = np.concatenate([part for group in zip(*groups) for part in group], -1)
        getattr(fused.pack, kind).set_value(whole)
        np.testing.assert_array_equal(fused.pack.weight.fusion.fuse(parts), whole)
    batch = Batch(ROWS, TOKENS, 0, TOKENS)
    np.testing.assert_allclose(fused(x, batch).numpy(), apart(x, batch).numpy(), rtol=1e-5, atol=1e-5)
