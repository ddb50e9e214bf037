"""Contexts with a hole and the text that fills it: masks and positions, written out."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddlenlp.nn import context_lengths, infilling_mask, infilling_positions

BEGIN, HOLE, END_HOLE = 7, 8, 9
ROWS = {
    "hole at the end": [1, 2, END_HOLE, BEGIN, 3, 3],
    "hole within": [1, HOLE, 2, BEGIN, 3, 3],
    "both": [HOLE, 1, END_HOLE, BEGIN, 3, 3],
    "no hole": [1, 2, 3, BEGIN, 3, 3],
    "text only": [1, 2, 3, 3, 3, 3],
    "begins at once": [BEGIN, 2, 3, 3, 3, 3],
    "begins twice": [1, END_HOLE, BEGIN, 3, BEGIN, 3],
}
EXPECTED = {  # length of the context, place in it, place in the text, single position
    "hole at the end": (3, [0, 1, 2, 2, 2, 2], [0, 0, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5]),
    "hole within": (3, [0, 1, 2, 1, 1, 1], [0, 0, 0, 1, 2, 3], [0, 1, 2, 1, 1, 1]),
    "both": (3, [0, 1, 2, 2, 2, 2], [0, 0, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5]),
    "no hole": (3, [0, 1, 2, 2, 2, 2], [0, 0, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5]),
    "text only": (0, [0] * 6, [1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 5]),
    "begins at once": (0, [0] * 6, [1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 5]),
    "begins twice": (2, [0, 1, 1, 1, 1, 1], [0, 0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5]),
}


@pytest.mark.parametrize("name", ROWS)
def test_positions(name):
    ids = paddle.to_tensor(np.array([ROWS["hole at the end"], ROWS[name]]))
    length, first, second, single = EXPECTED[name]
    lengths = context_lengths(ids, BEGIN)
    assert lengths.tolist() == [3, length]
    two = infilling_positions(ids, lengths, HOLE, END_HOLE, two=True)
    assert two.shape == [2, 2, 6] and two.dtype == paddle.int64
    assert two[1].tolist() == [first, second]
    assert infilling_positions(ids, lengths, HOLE, END_HOLE, two=False)[1].tolist() == single


def test_the_context_sees_itself_and_the_text_what_is_before():
    mask = infilling_mask(paddle.to_tensor([3, 0]), 5)
    assert mask.shape == [2, 1, 5, 5] and mask.dtype == paddle.bool
    causal = np.tril(np.ones((5, 5), bool))
    np.testing.assert_array_equal(mask[1, 0].numpy(), causal)
    causal[:, :3] = True
    np.testing.assert_array_equal(mask[0, 0].numpy(), causal)
