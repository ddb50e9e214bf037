"""The localised filter against a convolution, and token by token against all at once."""

from __future__ import annotations

import numpy as np
import paddle
from paddle.nn import functional as F

from paddlenlp.nn.batch import Batch
from paddlenlp.nn.cache import LayerCache
from paddlenlp.nn.local_filter import LocalFilter, Taps

ROWS, LENGTH, HIDDEN = 2, 7, 6


def randomised(layer):
    stream = np.random.RandomState(1)
    for param in layer.parameters():
        param.set_value(stream.standard_normal(param.shape).astype(np.float32))
    return layer


def tokens():
    return paddle.to_tensor(np.random.RandomState(2).standard_normal([ROWS, LENGTH, HIDDEN]).astype(np.float32))


def test_it_is_two_convolutions_over_the_row():
    layer, x = randomised(LocalFilter(HIDDEN, eps=1e-5)), tokens()
    y = x.transpose([0, 2, 1]).unsqueeze(-1)
    for conv in (layer.conv1, layer.conv2):
        y = F.conv2d(y, conv.weight, conv.bias, padding=[1, 0])[:, :, :LENGTH]
    y = y.squeeze(-1).transpose([0, 2, 1]) + x
    y = y / (y.square().mean(-1, keepdim=True) + 1e-5).sqrt() * layer.output_layernorm.weight
    found = layer(x.reshape([-1, HIDDEN]), Batch(ROWS, LENGTH, 0, LENGTH))
    np.testing.assert_allclose(found.numpy(), y.reshape([-1, HIDDEN]).numpy(), rtol=1e-4, atol=1e-5)


def test_a_token_sees_itself_and_two_before():
    layer, x = randomised(LocalFilter(HIDDEN)), tokens()
    batch = Batch(ROWS, LENGTH, 0, LENGTH)
    changed = x.clone()
    changed[0, 2] += 1.0
    gap = layer(x.reshape([-1, HIDDEN]), batch) - layer(changed.reshape([-1, HIDDEN]), batch)
    moved = (gap.abs().max(-1) > 1e-6).numpy().reshape([ROWS, LENGTH])
    np.testing.assert_array_equal(moved, [[2 <= place <= 4 for place in range(LENGTH)], [False] * LENGTH])


def test_with_a_cache_it_goes_on():
    layer, x, cache = randomised(LocalFilter(HIDDEN)), tokens(), LayerCache()
    whole = layer(x.reshape([-1, HIDDEN]), Batch(ROWS, LENGTH, 0, LENGTH)).reshape(x.shape)
    at = 0
    for count in (1, 3, 1, 2):
        batch = Batch(ROWS, count, at, at + count, cache=cache)
        found = layer(x[:, at : at + count].reshape([-1, HIDDEN]), batch).reshape([ROWS, count, HIDDEN])
        np.testing.assert_allclose(found.numpy(), whole[:, at : at + count].numpy(), rtol=1e-4, atol=1e-5)
        at += count


def test_what_adds_its_bias():
    assert Taps(4, 2, "column").adds_bias and not Taps(4, 2, "row").adds_bias
