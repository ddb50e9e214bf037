"""Norms on a CPU against float64."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from . import reference
from .reference import assert_close, generator, normal

SHAPES = [(1, 5), (3, 7), (37, 64), (2, 5, 259), (300, 1000), (17, 4096), (5, 16384), (2000, 65), (0, 8)]
EPSILON = 1e-5


def tensors(*arrays):
    return [paddle.to_tensor(x, stop_gradient=False) for x in arrays]


def gradients(outputs, slopes, inputs):
    """Of sum(outputs * slopes) with respect to inputs."""
    paddle.autograd.backward(outputs, [paddle.to_tensor(s) for s in slopes])
    return [x.grad.numpy() for x in inputs]


def inputs(shape, count):
    rng = generator(1, *shape)
    return [normal(rng, *shape) for _ in range(count)], 1 + normal(rng, shape[-1], scale=0.3), normal(rng, shape[-1])


@pytest.mark.parametrize("module", ["fused_ln.fused_rms_norm", "fast_ln.fast_rms_norm"])
@pytest.mark.parametrize("shape", SHAPES)
def test_rms_norm(module, shape):
    (x, dy), scale, _ = inputs(shape, 2)
    leaves = tensors(x, scale)
    y, invvar = function(module)(*leaves, EPSILON)
    wide = x.astype("float64")
    wanted, inverse = reference.rms_norm(wide, scale.astype("float64"), EPSILON)
    assert_close(y, wanted)
    assert_close(invvar, inverse[..., 0])
    for found, right in zip(gradients([y], [dy], leaves), reference.rms_norm_grad(wide, scale, inverse, dy)):
        assert_close(found, right)


@pytest.mark.parametrize("module", ["fused_ln.fused_ln", "fast_ln.fast_ln"])
@pytest.mark.parametrize("shape", SHAPES)
def test_layer_norm(module, shape):
    (x, dy), scale, bias = inputs(shape, 2)
    leaves = tensors(x + np.float32(0.5), scale, bias)
    y, mean, invvar = function(module)(*leaves, EPSILON)
    wide = (x + np.float32(0.5)).astype("float64")
    wanted, middle, inverse = reference.layer_norm(wide, scale.astype("float64"), bias, EPSILON)
    assert_close(y, wanted)
    assert_close(mean, middle[..., 0])
    assert_close(invvar, inverse[..., 0])
    right = reference.layer_norm_grad(wide, scale, middle, inverse, dy)
    for found, wanted in zip(gradients([y], [dy], leaves), right):
        assert_close(found, wanted)


@pytest.mark.parametrize("shape", SHAPES)
def test_add_rms_norm(shape):
    (x, residual, dy, dsum), scale, _ = inputs(shape, 4)
    leaves = tensors(x, residual, scale)
    y, total, invvar = function("fused_layers.fused_add_rms_norm")(*leaves, EPSILON)
    wide = (x + residual).astype("float64")
    wanted, inverse = reference.rms_norm(wide, scale.astype("float64"), EPSILON)
    np.testing.assert_array_equal(total, x + residual)
    assert_close(y, wanted)
    assert_close(invvar, inverse[..., 0])
    dx, dscale = reference.rms_norm_grad(wide, scale, inverse, dy)
    for found, right in zip(gradients([y, total], [dy, dsum], leaves), (dx + dsum, dx + dsum, dscale)):
        assert_close(found, right)


@pytest.mark.parametrize("used", [0, 1])
def test_add_rms_norm_of_which_one_result_is_used(used):
    (x, residual, dy), scale, _ = inputs((6, 33), 3)
    leaves = tensors(x, residual, scale)
    outputs = function("fused_layers.fused_add_rms_norm")(*leaves, EPSILON)
    wide = (x + residual).astype("float64")
    _, inverse = reference.rms_norm(wide, scale, EPSILON)
    dx, dscale = reference.rms_norm_grad(wide, scale, inverse, dy) if used == 0 else (dy, np.zeros(33))
    for found, right in zip(gradients([outputs[used]], [dy], leaves), (dx, dx, dscale)):
        assert_close(found, right)


def test_the_gradients_of_both_terms_have_their_own_memory():
    (x, residual, dy), scale, _ = inputs((4, 8), 3)
    leaves = tensors(x, residual, scale)
    gradients([function("fused_layers.fused_add_rms_norm")(*leaves, EPSILON)[0]], [dy], leaves)
    before = leaves[1].grad.numpy()
    leaves[0].grad.add_(paddle.ones([4, 8]))
    np.testing.assert_array_equal(leaves[1].grad, before)


def test_the_gradient_as_a_function():
    (x, dy), scale, _ = inputs((9, 70), 2)
    leaves = tensors(x, scale)
    y, invvar = function("fused_ln.fused_rms_norm")(*leaves, EPSILON)
    found = function("fused_ln.fused_rms_norm_grad_func")(*leaves, invvar, paddle.to_tensor(dy), EPSILON)
    for mine, theirs in zip(found, gradients([y], [dy], leaves)):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 12, 20])
def test_what_is_not_finite_stays_so(bad, place):
    x = np.ones((2, 21), "float32")
    x[1, place] = bad
    scale, bias = paddle.ones([21]), paddle.zeros([21])
    for y in (
        function("fused_ln.fused_rms_norm")(paddle.to_tensor(x), scale, EPSILON)[0],
        function("fused_ln.fused_ln")(paddle.to_tensor(x), scale, bias, EPSILON)[0],
        function("fused_layers.fused_add_rms_norm")(paddle.to_tensor(x), paddle.ones([2, 21]), scale, EPSILON)[0],
    ):
        assert np.isfinite(y.numpy()[0]).all() and not np.isfinite(y.numpy()[1, place])


def test_views_that_are_not_in_one_piece():
    rng = generator(4)
    x = paddle.to_tensor(normal(rng, 24, 10)).transpose([1, 0])
    scale = paddle.to_tensor(normal(rng, 48))[::2]
    rms_norm = function("fused_ln.fused_rms_norm")
    found, wanted = rms_norm(x, scale, EPSILON)[0], rms_norm(x.contiguous(), scale.contiguous(), EPSILON)[0]
    np.testing.assert_array_equal(found, wanted)


def function(path):
    """Of "module.name"; imported here, since the fixture has to build it first."""
    import importlib

    module, name = path.split(".")
    return getattr(importlib.import_module(module), name)
