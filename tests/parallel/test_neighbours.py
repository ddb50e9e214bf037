"""The token before each token, over ranks that share rows."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from ranks import run_ranks

from paddlenlp.parallel.neighbours import one_back


@pytest.mark.parametrize("world", [2, 4])
def test_over_ranks(world):
    for rank in run_ranks(world, "tests/parallel/work_neighbours.py:one_back", ["sep", "cp"]):
        assert rank == {"sep": [0.0, 0.0], "cp": [0.0, 0.0]}


def test_in_one_process():
    x = paddle.arange(12, dtype="float32").reshape([2, 3, 2])
    np.testing.assert_array_equal(one_back(x).numpy()[0], [[0, 0], [0, 1], [2, 3]])
    first = paddle.full([2, 1, 2], 7.0)
    np.testing.assert_array_equal(one_back(x, first).numpy()[1], [[7, 7], [6, 7], [8, 9]])
