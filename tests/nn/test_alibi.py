"""Slopes of linear position biases."""

from __future__ import annotations

import numpy as np
import pytest

from paddlenlp.nn import alibi_slopes


def test_a_power_of_two():
    np.testing.assert_array_equal(alibi_slopes(8), [2.0**-i for i in range(1, 9)])
    assert alibi_slopes(8).dtype == np.float32


def test_others_are_filled_up_from_the_next_power_of_two():
    """The rule of the authors' code: github.com/ofirpress/attention_with_linear_biases."""
    slopes = alibi_slopes(12)
    np.testing.assert_array_equal(slopes[:8], alibi_slopes(8))
    np.testing.assert_array_equal(slopes[8:], alibi_slopes(16)[::2][:4])


@pytest.mark.parametrize("heads", [1, 3, 16, 112])
def test_one_falling_slope_a_head(heads):
    slopes = alibi_slopes(heads)
    assert slopes.shape == (heads,) and np.all(slopes > 0) and np.all(slopes < 1)
    assert len(set(slopes.tolist())) == heads
