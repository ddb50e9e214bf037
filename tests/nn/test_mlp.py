"""Feed-forward blocks."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from paddle.nn import functional as F

from paddlenlp.nn import GatedMLP
from paddlenlp.utils.errors import UsageError

CONFIG = SimpleNamespace(hidden_size=6, intermediate_size=10, num_hidden_layers=2)


def filled(mlp):
    paddle.seed(0)
    for param in mlp.parameters():
        param.set_value(paddle.randn(param.shape))
    return mlp


@pytest.mark.parametrize(
    ("name", "act"),
    [
        ("silu", F.silu),
        ("gelu", F.gelu),
        ("gelu_pytorch_tanh", lambda x: F.gelu(x, approximate=True)),
        ("relu", F.relu),
    ],
)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_gated(name, act, bias, fused):
    mlp, x = filled(GatedMLP(CONFIG, name, bias=bias, fused=fused)), paddle.randn([7, 6])
    if fused:
        gate, up = paddle.split(mlp.gate_up_fused_proj(x), 2, -1)
    else:
        gate, up = mlp.gate_proj(x), mlp.up_proj(x)
    expected = paddle.matmul(act(gate) * up, mlp.down_proj.weight)
    expected = expected + mlp.down_proj.bias if bias else expected
    np.testing.assert_allclose(mlp(x).numpy(), expected.numpy(), rtol=1e-4, atol=1e-5)
    assert len(mlp.parameters()) == (2 if fused else 3) * (2 if bias else 1)


def test_unknown_activation_is_refused():
    with pytest.raises(UsageError, match="hidden_act='tanh'.*silu"):
        GatedMLP(CONFIG, "tanh")
