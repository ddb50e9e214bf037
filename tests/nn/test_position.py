"""Rotary angles and their scalings, against formulas written out in float64."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddlenlp.nn import Rotary
from paddlenlp.nn.batch import Batch, make_batch
from paddlenlp.nn.position import MIN_ROWS
from paddlenlp.utils.errors import UsageError

DIM, BASE = 8, 10000.0
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}


def plain(base=BASE):
    return base ** -(np.arange(0, DIM, 2) / DIM)


def found(rotary, length):
    """Angles of the last position, as complex numbers."""
    cos, sin = rotary.angles(Batch(1, length, 0, length))
    assert cos.shape == [1, length, 1, DIM // 2] and cos.dtype == paddle.float32
    return cos.numpy()[0, -1, 0] + 1j * sin.numpy()[0, -1, 0]


def turned(frequencies, position):
    return np.exp(1j * position * frequencies)


@pytest.mark.parametrize("key", ["rope_type", "type"])
@pytest.mark.parametrize(
    ("scaling", "frequencies"),
    [
        ({"kind": "default"}, plain()),
        ({"kind": "linear", "factor": 4.0}, plain() / 4),
        ({"kind": "ntk", "factor": 4.0}, plain(BASE * 4 ** (8 / 6))),
        ({"kind": "dynamic", "factor": 2.0}, plain(BASE * (2 * 50 / 32 - 1) ** (8 / 6))),
    ],
    ids=["default", "linear", "ntk", "dynamic"],
)
def test_scalings_beyond_the_trained_length(key, scaling, frequencies):
    options = {key if name == "kind" else name: value for name, value in scaling.items()}
    rotary = Rotary(DIM, BASE, options, max_length=32)
    np.testing.assert_allclose(found(rotary, 50), turned(frequencies, 49), atol=1e-5)


def test_dynamic_acts_only_beyond_the_trained_length():
    rotary = Rotary(DIM, BASE, {"rope_type": "dynamic", "factor": 2.0}, max_length=32)
    long = found(rotary, 50)
    np.testing.assert_allclose(found(rotary, 32), turned(plain(), 31), atol=1e-5)
    np.testing.assert_array_equal(found(rotary, 50), long)


def test_llama3_keeps_fast_slows_slow_and_blends_between():
    rotary = Rotary(DIM, BASE, {"rope_type": "llama3", **LLAMA3})
    expected = plain()
    waves = 2 * np.pi / expected
    assert waves[0] < 64 / 4 and 64 / 4 < waves[1] < 64 and waves[2] > 64
    blend = (64 / waves[1] - 1) / (4 - 1)
    expected[1] *= (1 - blend) / 8 + blend
    expected[2:] /= 8
    np.testing.assert_allclose(found(rotary, 100), turned(expected, 99), atol=1e-5)


def test_tables_grow_with_the_sequence():
    rotary = Rotary(DIM, BASE)
    for length in (3, MIN_ROWS, MIN_ROWS + 1, 1000, 5):
        assert np.isfinite(found(rotary, length)).all()
        np.testing.assert_allclose(found(rotary, length), turned(plain(), length - 1), atol=1e-4)


def test_given_positions_may_lie_beyond_the_sequence():
    positions = np.array([[0, 5, 700], [3, 2, 1]])
    batch = make_batch(paddle.zeros([2, 3], "int64"), paddle.to_tensor(positions))
    cos, sin = Rotary(DIM, BASE).angles(batch)
    assert cos.shape == [2, 3, 1, DIM // 2]
    expected = turned(plain(), positions[..., None])
    np.testing.assert_allclose(cos.numpy()[:, :, 0] + 1j * sin.numpy()[:, :, 0], expected, atol=1e-4)


def test_start_continues_the_positions():
    rotary = Rotary(DIM, BASE)
    whole, rest = rotary.angles(Batch(1, 9, 0, 9)), rotary.angles(Batch(1, 4, 5, 9))
    np.testing.assert_array_equal(whole[0][:, 5:].numpy(), rest[0].numpy())


@pytest.mark.parametrize("interleaved", [False, True])
def test_scores_depend_on_the_distance_only(interleaved):
    rotary = Rotary(DIM, BASE, interleaved=interleaved)
    q, k = paddle.randn([1, 1, 1, DIM]), paddle.randn([1, 1, 1, DIM])
    q, k = q.expand([1, 12, 1, DIM]), k.expand([1, 12, 1, DIM])
    q, k = rotary(q, k, Batch(1, 12, 0, 12))
    scores = paddle.matmul(q.squeeze([0, 2]), k.squeeze([0, 2]), transpose_y=True).numpy()
    for distance in range(5):
        diagonal = np.diagonal(scores, -distance)
        np.testing.assert_allclose(diagonal, np.full_like(diagonal, diagonal[0]), atol=1e-4)
    assert abs(scores[5, 0] - scores[0, 0]) > 1e-3


def test_layers_share_one_table():
    a, b = (Rotary(DIM, BASE, {"rope_type": "linear", "factor": 3.0}).angles(Batch(1, 9, 0, 9))[0] for _ in range(2))
    assert a is b


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        ({"rope_type": "longest"}, "'longest' is not known; known: default, linear"),
        ({"type": "linear"}, "lacks factor"),
        ({"rope_type": "dynamic", "factor": 2.0}, "lacks max_position_embeddings"),
        ({"rope_type": "llama3", "factor": 2.0}, "lacks low_freq_factor, high_freq_factor, original_max"),
    ],
)
def test_wrong_scaling_is_refused(scaling, message):
    with pytest.raises(UsageError, match=message):
        Rotary(DIM, BASE, scaling)
