"""Cross entropy, AdamW, norms and the gradient of an embedding on a CPU against float64."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from . import reference
from .reference import assert_close, generator, normal


def wide_parts(logits, labels, first):
    top = logits.max(-1)
    powers = np.exp(logits - top[:, None]).sum(-1)
    own = labels - first
    here = (labels >= 0) & (own >= 0) & (own < logits.shape[1])
    picked = np.where(here, logits[np.arange(len(labels)), np.where(here, own, 0)], 0.0)
    return top, powers, picked, np.where(here, own, -1)


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (9, 2048), (4, 2051), (3, 32000), (60, 513), (0, 5)])
@pytest.mark.parametrize("scale", [1.0, 12.0])
@pytest.mark.parametrize("first", [0, 5])
def test_cross_entropy(shape, scale, first):
    from fused_layers import cross_entropy_parts, cross_entropy_slopes_

    rng = generator(5, *shape)
    logits = normal(rng, *shape, scale=scale)
    labels = rng.integers(0, first + shape[1] + 5, shape[0])
    labels[::3] = -100
    wide = logits.astype("float64")
    *wanted, own = wide_parts(wide, labels, first)
    for found, right in zip(cross_entropy_parts(paddle.to_tensor(logits), paddle.to_tensor(labels), first), wanted):
        assert_close(found, right)
    log_sum = (wanted[0] + np.log(wanted[1])).astype("float32")
    factors = normal(rng, shape[0])
    slopes = np.exp(wide - log_sum.astype("float64")[:, None]) - (np.arange(shape[1]) == own[:, None])
    slopes[labels < 0] = 0
    for factor, given in ((np.float32(0.7), 0.7), (factors[:, None], paddle.to_tensor(factors))):
        x = paddle.to_tensor(logits)
        y = cross_entropy_slopes_(x, paddle.to_tensor(labels), paddle.to_tensor(log_sum), first, given)
        assert y.data_ptr() == x.data_ptr()
        np.testing.assert_allclose(y, factor * slopes, rtol=2e-6, atol=3e-7)  # logits of 50 are known to 2e-6


def test_masked_columns_and_the_order_of_greater_logits():
    from fused_layers import cross_entropy_parts

    logits = np.full((3, 5000), -np.inf, "float32")
    logits[0, 4999] = 2.0
    logits[1, ::1000] = np.arange(5) * 60
    logits[2, ::1000] = np.arange(5)[::-1] * 60
    labels = paddle.to_tensor([4999, 0, 0])
    top, powers, picked = cross_entropy_parts(paddle.to_tensor(logits), labels, 0)
    np.testing.assert_array_equal(top, [2, 240, 240])
    np.testing.assert_allclose(powers, [1, 1, 1], rtol=1e-6)
    np.testing.assert_array_equal(picked, [2, 0, 240])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("place", [0, 12, 2500, 4999])
def test_a_bad_logit_shows_in_its_row_only(bad, place):
    from fused_layers import cross_entropy_parts, cross_entropy_slopes_

    logits = np.ones((2, 5000), "float32")
    logits[1, place] = bad
    labels = paddle.to_tensor([1, 1])
    top, powers, _ = cross_entropy_parts(paddle.to_tensor(logits), labels, 0)
    log_sum = top + paddle.log(powers)
    assert np.isfinite(log_sum.numpy()).tolist() == [True, False]
    slopes = cross_entropy_slopes_(paddle.to_tensor(logits), labels, log_sum, 0, 1.0).numpy()
    assert np.isfinite(slopes[0]).all() and not np.isfinite(slopes[1]).any()


@pytest.mark.parametrize("size", [1, 15, 1000, 100_001])
@pytest.mark.parametrize("lr, epsilon", [(3e-4, 1e-8), (0.5, 1e-3)])
@pytest.mark.parametrize("decay, step, factor", [(0.0, 1, 1.0), (0.1, 7, 0.3)])
def test_adamw(size, lr, epsilon, decay, step, factor):
    from fused_layers import fused_adamw_

    rng = generator(6, size)
    state = [normal(rng, size), normal(rng, size, scale=1e-2), np.abs(normal(rng, size, scale=1e-3))]
    gradient = normal(rng, size, scale=0.1)
    betas = [float(np.float32(beta)) for beta in (0.9, 0.999)]
    numbers = [float(np.float32(x)) for x in (lr, *betas, epsilon, decay, *(1 - beta**step for beta in betas), factor)]
    wide = [x.astype("float64") for x in (*state, gradient)]
    weight = paddle.create_parameter([size], "float32")
    weight.set_value(state[0])
    tensors = [weight, *map(paddle.to_tensor, state[1:])]
    fused_adamw_(*tensors, paddle.to_tensor(gradient), *numbers)
    for found, wanted in zip(tensors, reference.adamw(*wide, *numbers)):
        assert_close(found, wanted)


def test_adamw_follows_paddles_over_steps():
    from fused_layers import fused_adamw_

    rng = generator(7)
    start, gradients = normal(rng, 500), normal(rng, 30, 500)
    theirs = paddle.create_parameter([500], "float32")
    theirs.set_value(start)
    optimizer = paddle.optimizer.AdamW(1e-3, parameters=[theirs], weight_decay=0.1)
    state = [paddle.to_tensor(start), paddle.zeros([500]), paddle.zeros([500])]
    beta1, beta2 = (float(np.float32(beta)) for beta in (0.9, 0.999))
    for step, gradient in enumerate(gradients, 1):
        theirs.grad = paddle.to_tensor(gradient)
        optimizer.step()
        corrections = 1 - beta1**step, 1 - beta2**step
        fused_adamw_(*state, paddle.to_tensor(gradient), 1e-3, beta1, beta2, 1e-8, 0.1, *corrections)
    np.testing.assert_allclose(state[0], theirs, rtol=2e-6, atol=2e-7)


def test_adamw_does_not_hide_what_is_not_finite():
    from fused_layers import fused_adamw_

    for bad in (np.nan, np.inf):
        weight, moment1, moment2 = paddle.ones([20]), paddle.zeros([20]), paddle.zeros([20])
        gradient = paddle.ones([20])
        gradient[13] = bad
        fused_adamw_(weight, moment1, moment2, gradient, 1e-3, 0.9, 0.999, 1e-8, 0.0, 0.1, 0.001)
        for x in (weight, moment1, moment2):
            assert np.flatnonzero(~np.isfinite(x.numpy())).tolist() == [13]


@pytest.mark.parametrize("size", [0, 1, 13, 16384, 1_000_003])
def test_squared_norm(size):
    from fused_layers import squared_norm

    x = normal(generator(8, size), size)
    found = squared_norm(paddle.to_tensor(x))
    assert found.shape == [1]
    np.testing.assert_allclose(found, [(x.astype("float64") ** 2).sum()], rtol=1e-7)


@pytest.mark.parametrize("place", [0, 16390, 19999])
def test_squared_norm_of_what_is_not_finite(place):
    from fused_layers import squared_norm

    for bad in (np.nan, np.inf):
        x = paddle.ones([20000])
        x[place] = bad
        assert not np.isfinite(squared_norm(x).item())


@pytest.mark.parametrize("tokens, rows, columns", [(1, 1, 1), (50, 7, 33), (3000, 100, 64), (40, 5000, 16), (0, 3, 4)])
def test_embedding_grad(tokens, rows, columns):
    from fused_layers import embedding_grad

    rng = generator(9, tokens, rows)
    ids = rng.integers(0, rows, tokens)
    ids[: tokens // 2] = rows // 2
    grad = normal(rng, tokens, columns)
    wanted = np.zeros((rows, columns))
    np.add.at(wanted, ids, grad.astype("float64"))
    assert_close(embedding_grad(paddle.to_tensor(ids), paddle.to_tensor(grad), rows), wanted)


def test_embedding_grad_of_a_batch_with_a_bad_line():
    from fused_layers import embedding_grad

    grad = paddle.ones([2, 3, 5])
    grad[1, 0] = np.nan
    out = embedding_grad(paddle.to_tensor([[0, 1, 0], [2, 2, 0]]), grad, 4).numpy()
    np.testing.assert_array_equal(out[[0, 1, 3], 0], [3, 1, 0])
    assert np.isnan(out[2]).all()
