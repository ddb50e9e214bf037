"""Runs of elements of parts of tensors, against NumPy's own indexing."""

import random

import numpy as np
import pytest

from paddlenlp.utils.selection import runs_of


def a_case(stream):
    """A tensor's shape, a box of it, and its elements."""
    shape = [stream.randint(1, 6) for _ in range(stream.randint(0, 4))]
    found, spans = np.arange(int(np.prod(shape))).reshape(shape), []
    for axis, size in enumerate(shape):
        starts = [stream.randint(0, size - 1) for _ in range(stream.randint(1, 3))]
        ranges = [(start, stream.randint(start + 1, size)) for start in starts]
        spans.append([(0, size)] if stream.random() < 0.4 else ranges)
        found = np.concatenate([np.take(found, range(a, b), axis) for a, b in spans[-1]], axis)
    return shape, spans, found.reshape(-1)


@pytest.mark.parametrize("seed", range(20))
def test_the_runs_are_those_that_indexing_picks(seed):
    stream = random.Random(seed)
    for _ in range(50):
        shape, spans, expected = a_case(stream)
        start = stream.randint(0, expected.size - 1)
        stop = stream.randint(start + 1, expected.size)
        starts, lengths = runs_of(shape, spans, start, stop)
        found = np.concatenate([np.arange(first, first + length) for first, length in zip(starts, lengths)])
        assert found.tolist() == expected[start:stop].tolist(), (shape, spans, start, stop)
        assert (starts[1:] != starts[:-1] + lengths[:-1]).all()
