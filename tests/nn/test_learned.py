"""Learned positions: which row of the table each token gets, and what is refused."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddlenlp.nn import LearnedPositions
from paddlenlp.nn.batch import Batch
from paddlenlp.utils.errors import UsageError

HIDDEN = 4


def table(**options):
    layer = LearnedPositions(6, HIDDEN, **options)
    layer.weight.set_value(np.arange(layer.weight.size, dtype=np.float32).reshape(layer.weight.shape))
    return layer


def added(layer, batch):
    return layer(paddle.zeros([batch.size * batch.seq, HIDDEN]), batch).numpy().reshape([batch.size, batch.seq, HIDDEN])


@pytest.mark.parametrize("offset", [0, 2])
def test_tokens_stand_one_after_the_other(offset):
    layer = table(offset=offset)
    rows = layer.weight.numpy()
    assert rows.shape == (6 + offset, HIDDEN)
    found = added(layer, Batch(2, 3, 0, 3))
    np.testing.assert_array_equal(found, [rows[offset : offset + 3]] * 2)


def test_after_a_cache():
    layer = table()
    np.testing.assert_array_equal(added(layer, Batch(1, 2, 3, 5))[0], layer.weight.numpy()[3:5])


def test_given_positions():
    layer, places = table(), np.array([[0, 4, 1], [5, 5, 2]])
    found = added(layer, Batch(2, 3, 0, 6, paddle.to_tensor(places)))
    np.testing.assert_array_equal(found, layer.weight.numpy()[places])


def test_what_stands_there_is_kept():
    layer, x = table(), paddle.rand([3, HIDDEN])
    np.testing.assert_array_equal(layer(x, Batch(1, 3, 0, 3)).numpy(), x.numpy() + layer.weight.numpy()[:3])


def test_sums_are_dropped_in_training_only():
    layer, x, batch = table(dropout=0.5), paddle.ones([6, HIDDEN]), Batch(1, 6, 0, 6)
    assert (layer(x, batch).numpy() == 0).any()
    layer.eval()
    assert (layer(x, batch).numpy() > 0).all()


def test_too_long():
    with pytest.raises(UsageError, match=r"reaches position 6, .* positions 0 to 5 \(max_position_embeddings=6\)"):
        table(offset=2)(paddle.zeros([7, HIDDEN]), Batch(1, 7, 0, 7))
