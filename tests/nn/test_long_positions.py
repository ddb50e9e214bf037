"""What happens to queries and keys of sequences beyond the trained length, in evaluation only."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest

from paddlenlp.nn import LogScaled, Rotary, TrainOrEval
from paddlenlp.nn.batch import Batch, make_batch
from paddlenlp.nn.cache import KVCache

DIM, BASE, TRAINED = 8, 10000.0, 10


def doubling(length):
    """The base that released Qwen code uses for a sequence of this length."""
    alpha = max(2 ** math.ceil(math.log2(length / TRAINED) + 1) - 1, 1)
    return BASE * alpha ** (DIM / (DIM - 2))


def rotary():
    return Rotary(DIM, BASE, {"rope_type": "doubling_ntk"}, TRAINED)


@pytest.mark.parametrize("length", [1, 9, 10, 11, 20, 21, 39, 40, 41])
def test_doubling(length):
    found, expected = rotary(), Rotary(DIM, doubling(length))
    for ours, theirs in zip(found.angles(Batch(1, length, 0, length)), expected.angles(Batch(1, length, 0, length))):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=2e-6)


def test_while_generating_the_first_read_decides():
    for prompt, longest in ((6, 6), (15, 15)):
        cache, batches = KVCache(1), []
        for count in (prompt, 9, 1):
            ids = paddle.zeros([1, count], "int64")
            cache.extend(ids)
            batches.append(make_batch(ids, cache=cache))
            cache.layers[0].extend(paddle.zeros([1, count, 1, 2]), paddle.zeros([1, count, 1, 2]))
        assert [batch.opening for batch in batches] == [prompt] * 3
        expected = Rotary(DIM, doubling(longest)).angles(batches[-1])
        np.testing.assert_allclose(rotary().angles(batches[-1])[0].numpy(), expected[0].numpy(), atol=2e-6)


def test_log_scaled_queries():
    length, start = 16, 4
    q, k = paddle.rand([2, length - start, 3, DIM]), paddle.rand([2, length - start, 1, DIM])
    batch, plain = Batch(2, length - start, start, length), Rotary(DIM)
    expected_q, expected_k = plain(q, k, batch)
    found_q, found_k = LogScaled(plain, TRAINED)(q, k, batch)
    factors = [max(math.log(n) / math.log(TRAINED), 1.0) for n in range(start + 1, length + 1)]
    np.testing.assert_allclose(found_q.numpy(), expected_q.numpy() * np.reshape(factors, [-1, 1, 1]), rtol=1e-5)
    np.testing.assert_array_equal(found_k.numpy(), expected_k.numpy())
    assert max(factors) > 1.1


def test_given_positions_scale():
    q = paddle.ones([1, 2, 1, DIM])
    batch = Batch(1, 2, 0, 21, paddle.to_tensor([[3, 20]]))
    plain, scaled = Rotary(DIM)(q, q, batch)[0], LogScaled(Rotary(DIM), TRAINED)(q, q, batch)[0]
    np.testing.assert_allclose((scaled / plain).numpy()[0, :, 0, 0], [1, math.log(21, TRAINED)], rtol=1e-5)


def test_training_and_evaluation():
    layer = TrainOrEval(lambda q, k, batch: "training", lambda q, k, batch: "evaluation")
    assert layer(None, None, None) == "training"
    layer.eval()
    assert layer(None, None, None) == "evaluation"
