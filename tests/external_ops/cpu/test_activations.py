"""Rotary positions and SwiGLU on a CPU against float64."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from . import reference
from .reference import assert_close, generator, normal


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 1, 2), (2, 5, 3, 10), (3, 7, 2, 64), (2, 33, 4, 80), (1, 130, 2, 128)])
@pytest.mark.parametrize("each_row", [False, True])
def test_rope(shape, interleaved, each_row):
    from fused_layers import fused_rope

    rng = generator(2, *shape)
    x, dy = normal(rng, *shape), normal(rng, *shape)
    angles = rng.uniform(-9, 9, (shape[0] if each_row else 1, shape[1], 1, shape[3] // 2))
    cos, sin = np.cos(angles).astype("float32"), np.sin(angles).astype("float32")
    leaf = paddle.to_tensor(x, stop_gradient=False)
    y = fused_rope(leaf, paddle.to_tensor(cos), paddle.to_tensor(sin), interleaved)
    y.backward(paddle.to_tensor(dy))
    wide = [a.astype("float64") for a in (x, cos, sin, dy)]
    assert_close(y, reference.rope(*wide[:3], interleaved))
    assert_close(leaf.grad, reference.rope(wide[3], wide[1], -wide[2], interleaved))


@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5, 33), (100, 688), (0, 4)])
@pytest.mark.parametrize("scale", [1.0, 8.0, 40.0])
def test_swiglu(shape, scale):
    from fused_layers import fused_swiglu

    rng = generator(3, *shape)
    gate, up, dy = normal(rng, *shape, scale=scale), normal(rng, *shape), normal(rng, *shape)
    leaves = [paddle.to_tensor(x, stop_gradient=False) for x in (gate, up)]
    y = fused_swiglu(*leaves)
    y.backward(paddle.to_tensor(dy))
    wide = [x.astype("float64") for x in (gate, up, dy)]
    assert_close(y, reference.swiglu(*wide[:2]))
    for leaf, wanted in zip(leaves, reference.swiglu_grad(*wide)):
        assert_close(leaf.grad, wanted)


def test_each_value_of_swiglu_is_right_to_the_last_places():
    """Where the error of exp shows: no large values beside the small ones."""
    from fused_layers import fused_swiglu

    gate = np.linspace(-88, 88, 100_003).astype("float32")
    leaves = [paddle.to_tensor(gate, stop_gradient=False), paddle.ones([gate.size])]
    y = fused_swiglu(*leaves)
    y.backward()
    wide = gate.astype("float64")
    wanted = wide * reference.sigmoid(wide)
    np.testing.assert_allclose(y, wanted, rtol=5e-7, atol=0)
    slope = reference.sigmoid(wide) * (1 + wide * reference.sigmoid(-wide))
    np.testing.assert_allclose(leaves[0].grad, slope, rtol=2e-6, atol=2e-7)  # it has a zero near -1.28


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 13, 20])
def test_what_is_not_finite_stays_so(bad, place):
    from fused_layers import fused_rope, fused_swiglu

    x = np.ones((1, 21), "float32")
    x[0, place] = bad
    one = paddle.ones([1, 21])
    for inputs in ((paddle.to_tensor(x), one), (one, paddle.to_tensor(x))):
        y = fused_swiglu(*inputs).numpy()
        assert not np.isfinite(y[0, place]) and np.isfinite(y).sum() == 20
    table = paddle.full([1, 1, 1, 21], 0.5)
    both = paddle.concat([paddle.to_tensor(x), one], 1).reshape([1, 1, 1, 42])
    turned = fused_rope(both, table, table).numpy().reshape(2, 21)
    assert not np.isfinite(turned[:, place]).any() and np.isfinite(turned).sum() == 40


def test_not_a_number_in_the_gradient_of_swiglu():
    from fused_layers import fused_swiglu

    gate = paddle.to_tensor([np.nan, 0.0, 1.0], "float32", stop_gradient=False)
    up = paddle.to_tensor([1.0, np.nan, np.inf], "float32", stop_gradient=False)
    fused_swiglu(gate, up).backward(paddle.ones([3]))
    assert not np.isfinite(gate.grad.numpy()).any()
    assert np.isnan(up.grad.numpy()[0]) and np.isfinite(up.grad.numpy()[1:]).all()
