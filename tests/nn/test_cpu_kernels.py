"""The CPU kernels against the plain versions in values and gradients, and against float64 where that decides."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle.distributed.fleet.utils import recompute

from paddlenlp.nn import plain
from paddlenlp.nn.cpu import attention as cpu_attention
from paddlenlp.nn.cpu import loss as cpu_loss
from paddlenlp.nn.cpu import mlp, norm, position


@pytest.fixture(autouse=True)
def _seed():
    paddle.seed(7)


def leaf(*shape, scale=1.0):
    x = paddle.randn(shape) * scale
    x.stop_gradient = False
    return x


def values_and_grads(function, inputs, weight=None):
    """The outputs and the gradients of sum(outputs * weight) with respect to `inputs`."""
    for x in inputs:
        x.clear_gradient(set_to_zero=False)
    y = function(*inputs)
    weight = paddle.ones_like(y) if weight is None else weight
    (y * weight).sum().backward()
    return [y.numpy(), *(x.grad.numpy() for x in inputs)]


def assert_equal(fast, slow, inputs, tolerance=1e-5):
    """Both functions agree within `tolerance` of the largest entry, in values and gradients."""
    weight = paddle.randn(slow(*inputs).shape)
    for mine, wanted in zip(values_and_grads(fast, inputs, weight), values_and_grads(slow, inputs, weight)):
        assert mine.shape == wanted.shape
        np.testing.assert_allclose(mine, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


@pytest.mark.parametrize("shape", [(1, 8), (37, 24), (3, 5, 33)])
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_rms_norm(shape, offset):
    assert_equal(
        lambda x, w: norm.rms_norm(x, w, 1e-5, offset),
        lambda x, w: plain.rms_norm(x, w, 1e-5, offset),
        [leaf(*shape), leaf(shape[-1])],
    )


def test_rms_norm_of_a_zero_row_and_of_large_values():
    x = paddle.to_tensor(np.array([[0.0] * 4, [1e15, -1e15, 1e15, 1e15]], np.float32))
    np.testing.assert_allclose(norm.rms_norm(x, paddle.ones([4]), 1e-5).numpy(), [[0] * 4, [1, -1, 1, 1]], rtol=1e-5)


@pytest.mark.parametrize("batch", [1, 3])
def test_rotate(batch):
    angles = paddle.randn([batch, 7, 1, 5])
    cos, sin = paddle.cos(angles), paddle.sin(angles)
    assert_equal(lambda x: position.rotate(x, cos, sin), lambda x: plain.rotate(x, cos, sin), [leaf(3, 7, 2, 10)])


def test_rotate_interleaved():
    angles = paddle.randn([1, 7, 1, 5])
    cos, sin = paddle.cos(angles), paddle.sin(angles)
    x = leaf(2, 7, 2, 10)
    pairs = x.numpy().reshape(2, 7, 2, 5, 2)
    turned = (pairs[..., 0] + 1j * pairs[..., 1]) * np.exp(1j * angles.numpy())
    y = position.rotate(x, cos, sin, interleaved=True).numpy().reshape(2, 7, 2, 5, 2)
    np.testing.assert_allclose(y[..., 0] + 1j * y[..., 1], turned, rtol=1e-5, atol=1e-5)


def test_swiglu():
    assert_equal(mlp.swiglu, plain.swiglu, [leaf(6, 11, scale=3), leaf(6, 11)])


def test_swiglu_far_from_zero():
    gate = paddle.to_tensor([-1e4, -90.0, 90.0, 1e4], stop_gradient=False)
    y, grad, _ = values_and_grads(mlp.swiglu, [gate, paddle.ones_like(gate).detach_().clone()], None) if False else (None,) * 3
    up = paddle.ones([4])
    up.stop_gradient = False
    y, grad, _ = values_and_grads(mlp.swiglu, [gate, up])
    np.testing.assert_allclose(y, [0, 0, 90, 1e4], atol=1e-6)
    np.testing.assert_allclose(grad, [0, 0, 1, 1], atol=1e-6)
