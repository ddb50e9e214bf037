"""Communication with gradients on one process that stands for two; ranks are in test_tensor.py."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddlenlp.parallel import comm
from paddlenlp.parallel.group import SoloGroup, done


class Twins(SoloGroup):
    """Two ranks that hold the same."""

    def __init__(self):
        super().__init__()
        self.size = 2

    def _all_reduce(self, x, op):
        x.scale_(2.0)
        return done(x)


@pytest.mark.parametrize("strides", ["own", "dense"])
def test_sums_leave_what_they_are_sums_of(strides):
    """The sum is taken in place, and must not be in the place of the input or of its gradient."""
    leaf = paddle.arange(6, dtype="float32").reshape([2, 3])
    leaf.stop_gradient = False
    x = (leaf * 1.0).transpose([1, 0]) if strides == "own" else leaf * 1.0
    before, made = x.numpy(), []
    y = comm.total(x, Twins())
    np.testing.assert_array_equal(x.numpy(), before)
    np.testing.assert_array_equal(y.numpy(), 2 * before)
    z = comm.copy(x, Twins())
    z.register_hook(lambda grad: made.append(grad))
    slopes = paddle.arange(6, dtype="float32").reshape(z.shape[::-1]).transpose([1, 0])
    paddle.autograd.backward([z], [slopes])
    np.testing.assert_array_equal(slopes.numpy(), np.arange(6).reshape(z.shape[::-1]).T)
    expected = 2 * slopes.numpy()
    np.testing.assert_array_equal(leaf.grad.numpy(), expected.T if strides == "own" else expected)
