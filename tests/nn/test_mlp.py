"""Feed-forward blocks."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from paddle.nn import functional as F

from paddlenlp.nn import GatedMLP
from paddlenlp.nn.mlp import MLP
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


@pytest.mark.parametrize("bias", [False, True])
def test_plain(bias):
    mlp, x = filled(MLP(CONFIG, "gelu_new", ("fc_in", "fc_out"), bias)), paddle.randn([7, 6])
    shapes = {name: param.shape for name, param in mlp.named_parameters()}
    assert {name: shape for name, shape in shapes.items() if "weight" in name} == {
        "fc_in.weight": [6, 10],
        "fc_out.weight": [10, 6],
    }
    assert len(shapes) == (4 if bias else 2)
    expected = mlp.fc_out(F.gelu(mlp.fc_in(x), approximate=True))
    np.testing.assert_allclose(mlp(x).numpy(), expected.numpy(), rtol=1e-5)


def test_unknown_activation_is_refused():
    with pytest.raises(UsageError, match="hidden_act='tanh'.*silu"):
        MLP(CONFIG, "tanh")
    with pytest.raises(UsageError, match="hidden_act='tanh'.*silu"):
        GatedMLP(CONFIG, "tanh")


@pytest.mark.parametrize("up_first", [False, True])
def test_gated_under_other_names(up_first):
    options = dict(bias=True, fused=True, names=("a", "b", "narrow"), fused_name="wide", up_first=up_first)
    mlp, x = filled(GatedMLP(CONFIG, "gelu", **options)), paddle.randn([7, 6])
    assert {name.partition(".")[0] for name, _ in mlp.named_parameters()} == {"wide", "narrow"}
    gate, up = paddle.split(mlp.wide(x), 2, -1)[:: -1 if up_first else 1]
    np.testing.assert_allclose(mlp(x).numpy(), mlp.narrow(F.gelu(gate) * up).numpy(), rtol=1e-4, atol=1e-5)
    assert mlp.wide.weight.fusion.parts == (("b", "a") if up_first else ("a", "b"))
