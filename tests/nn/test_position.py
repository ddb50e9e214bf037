"""Rotary angles and their scalings, against formulas written out in float64."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddlenlp.nn import Rotary, Rotary2D
from paddlenlp.nn.batch import Batch, make_batch
from paddlenlp.nn.frequencies import score_factor
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


def test_yarn_keeps_fast_slows_slow_and_blends_between():
    values = {"factor": 4.0, "beta_fast": 4.0, "beta_slow": 1.0, "original_max_position_embeddings": 64}
    rotary = Rotary(DIM, BASE, {"rope_type": "yarn", **values}, max_length=256)
    numbers = [DIM * np.log(64 / (turns * 2 * np.pi)) / (2 * np.log(BASE)) for turns in (4, 1)]
    assert 0 < numbers[0] < 1 and 1 < numbers[1] < 2  # rounded outwards: pair 0 is kept, 2 and 3 are slowed
    expected = plain() * [1, 0.5 + 0.5 / 4, 1 / 4, 1 / 4]
    amplitude = 0.1 * np.log(4) + 1
    np.testing.assert_allclose(found(rotary, 100), amplitude * turned(expected, 99), atol=1e-5)
    whole = Rotary(DIM, BASE, {"rope_type": "yarn", **values, "truncate": False}, max_length=256)
    share = (1 - numbers[0]) / (numbers[1] - numbers[0])
    expected = plain() * [1, 1 - share + share / 4, 1 / 4, 1 / 4]
    np.testing.assert_allclose(found(whole, 100), amplitude * turned(expected, 99), atol=1e-5)


@pytest.mark.parametrize(
    ("more", "amplitude"),
    [
        ({"mscale": 0.7, "mscale_all_dim": 0.7}, 1.0),
        ({"mscale": 1.0, "mscale_all_dim": 0.5}, (0.1 * np.log(4) + 1) / (0.05 * np.log(4) + 1)),
        ({"mscale": 0.7}, 0.1 * np.log(4) + 1),
        ({"attention_factor": 1.5}, 1.5),
        ({"factor": 0.5}, 1.0),
        ({"factor": None}, 0.1 * np.log(256 / 64) + 1),
    ],
)
def test_amplitude_of_yarn(more, amplitude):
    values = {"factor": 4.0, "original_max_position_embeddings": 64, **more}
    at = found(Rotary(DIM, BASE, {"rope_type": "yarn", **values}, max_length=256), 70)
    np.testing.assert_allclose(np.abs(at), amplitude, rtol=1e-5)


def test_factor_of_scores():
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    assert score_factor(None, 64) == score_factor(scaling, 64) == 1.0
    assert score_factor({**scaling, "mscale_all_dim": 0.7}, 64) == pytest.approx((0.07 * np.log(4) + 1) ** 2)


def test_longrope_acts_otherwise_beyond_the_original_length():
    short, long = [1.0, 1.1, 1.5, 2.0], [1.0, 2.0, 4.0, 8.0]
    values = {"short_factor": short, "long_factor": long, "original_max_position_embeddings": 32}
    rotary = Rotary(DIM, BASE, {"rope_type": "longrope", **values}, max_length=64)
    amplitude = np.sqrt(1 + np.log(64 / 32) / np.log(32))
    np.testing.assert_allclose(found(rotary, 32), amplitude * turned(plain() / short, 31), atol=1e-5)
    np.testing.assert_allclose(found(rotary, 40), amplitude * turned(plain() / long, 39), atol=1e-5)
    with pytest.raises(UsageError, match="short_factor has 4 numbers for 5 pairs"):
        found(Rotary(10, BASE, {"rope_type": "longrope", **values}, max_length=64), 5)


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


@pytest.mark.parametrize("interleaved", [False, True])
def test_features_beyond_those_that_turn_stay(interleaved):
    rotary, batch = Rotary(DIM, BASE, interleaved=interleaved), Batch(1, 3, 0, 3)
    q, k = paddle.randn([1, 3, 2, DIM + 5]), paddle.randn([1, 3, 1, DIM + 5])
    for whole, x, alone in zip(rotary(q, k, batch), (q, k), rotary(q[..., :DIM], k[..., :DIM], batch)):
        np.testing.assert_array_equal(whole[..., :DIM].numpy(), alone.numpy())
        np.testing.assert_array_equal(whole[..., DIM:].numpy(), x[..., DIM:].numpy())


def test_two_positions_turn_a_half_each():
    places = np.array([[[0, 5, 2], [1, 1, 700]]])
    q, k = paddle.randn([1, 3, 2, 2 * DIM]), paddle.randn([1, 3, 1, 2 * DIM])
    turned_q, turned_k = Rotary2D(2 * DIM, BASE)(q, k, make_batch(paddle.zeros([1, 3]), paddle.to_tensor(places)))
    for half, at in ((slice(0, DIM), places[:, 0]), (slice(DIM, None), places[:, 1])):
        batch = make_batch(paddle.zeros([1, 3]), paddle.to_tensor(at))
        expected = Rotary(DIM, BASE)(q[..., half], k[..., half], batch)
        np.testing.assert_allclose(turned_q[..., half].numpy(), expected[0].numpy(), atol=1e-6)
        np.testing.assert_allclose(turned_k[..., half].numpy(), expected[1].numpy(), atol=1e-6)


@pytest.mark.parametrize("positions", [None, [[0, 1, 2]], [[[0, 1, 2]]]])
def test_two_positions_must_be_given(positions):
    batch = make_batch(paddle.zeros([1, 3]), None if positions is None else paddle.to_tensor(positions))
    x = paddle.zeros([1, 3, 1, 2 * DIM])
    with pytest.raises(UsageError, match=r"position_ids must be \[b, 2, s\]"):
        Rotary2D(2 * DIM)(x, x, batch)
