"""Norms, against float64."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddlenlp.nn import LayerNorm, RMSNorm

X = np.random.default_rng(0).normal(3.0, 2.0, (5, 12)).astype("float32")


@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_rms_norm(offset):
    norm = RMSNorm(12, eps=0.1, offset=offset)
    np.testing.assert_array_equal(norm.weight.numpy(), np.full(12, 1 - offset, "float32"))
    weight = np.linspace(-1, 1, 12).astype("float32")
    norm.weight.set_value(weight)
    x = X.astype(np.float64)
    expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + 0.1) * (weight + offset)
    np.testing.assert_allclose(norm(paddle.to_tensor(X)).numpy(), expected, rtol=1e-5, atol=1e-6)


def test_layer_norm():
    x = X.astype(np.float64) / 50
    norm = LayerNorm(12, eps=1e-3)
    weight, bias = np.linspace(-1, 1, 12).astype("float32"), np.linspace(5, 6, 12).astype("float32")
    norm.weight.set_value(weight)
    norm.bias.set_value(bias)
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-3) * weight + bias
    np.testing.assert_allclose(norm(paddle.to_tensor(x.astype("float32"))).numpy(), expected, rtol=1e-4, atol=1e-5)
