"""Dropout in one process, where there is one stream. `test_tensor` has several ranks."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddlenlp.parallel import dropout


@pytest.mark.parametrize("cut", [None, False, True])
def test_one_process_draws_from_paddles_generator(cut):
    x = paddle.ones([200])
    dropout.seed_streams(3, 4)
    found = dropout.dropout(x, 0.25, cut=cut).numpy()
    paddle.seed(3)
    np.testing.assert_array_equal(found, paddle.nn.functional.dropout(x, 0.25).numpy())
    assert set(np.unique(found.round(4))) == {0, np.float32(1.3333)}


def test_nothing_is_dropped_in_evaluation_or_at_rate_zero():
    x = paddle.ones([5])
    assert dropout.dropout(x, 0.5, training=False) is x and dropout.dropout(x, 0.0) is x


def test_states_continue_the_own_stream():
    dropout.seed_streams(3, 4)
    states = dropout.stream_states()
    assert list(states) == [dropout.OWN]
    with dropout._tracker().rng_state(dropout.OWN):
        first = paddle.rand([4]).numpy()
    dropout._tracker().reset()
    dropout.set_stream_states(states)
    with dropout._tracker().rng_state(dropout.OWN):
        np.testing.assert_array_equal(paddle.rand([4]).numpy(), first)


def test_seeding_leaves_the_same_stream_as_paddle_seed_does():
    dropout.seed_streams(11, 12)
    first = paddle.rand([4]).numpy()
    paddle.seed(11)
    np.testing.assert_array_equal(paddle.rand([4]).numpy(), first)
