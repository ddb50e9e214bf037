"""Continuing token ids: the cache, the end, the choice of tokens."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddlenlp.nn import KVCache
from paddlenlp.transformers.generation_utils import _Chooser
from paddlenlp.transformers.llama.configuration import LlamaConfig
from paddlenlp.transformers.llama.modeling import LlamaForCausalLM
from paddlenlp.utils.errors import UsageError

IDS = np.random.default_rng(0).integers(0, 61, (3, 5))


@pytest.fixture(scope="module")
def model():
    config = LlamaConfig(
        vocab_size=61,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    return LlamaForCausalLM.from_config(config)


def without_cache(model, ids, count):
    for _ in range(count):
        logits = model(paddle.to_tensor(ids)).numpy()[:, -1]
        ids = np.concatenate([ids, logits.argmax(-1)[:, None]], 1)
    return ids


def test_greedy_equals_reading_everything_again(model):
    found = model.generate(paddle.to_tensor(IDS), max_new_tokens=12)
    assert found.dtype == paddle.int64 and found.shape == [3, 17]
    np.testing.assert_array_equal(found.numpy(), without_cache(model, IDS, 12))


@pytest.mark.parametrize("steps", [(5,), (1, 1, 1, 1, 1), (3, 2)])
def test_the_cache_gives_the_logits_of_the_whole(model, steps):
    cache, start, ids = KVCache(2), 0, paddle.to_tensor(IDS)
    for step in steps:
        logits = model.next_logits(ids[:, start : start + step], cache)
        start += step
        assert cache.length == start
        np.testing.assert_allclose(logits.numpy(), model(ids[:, :start]).numpy()[:, -1], atol=1e-5)


def test_forward_reads_after_the_cache(model):
    cache, ids = KVCache(2), paddle.to_tensor(IDS)
    model(ids[:, :3], cache=cache)
    np.testing.assert_allclose(model(ids[:, 3:], cache=cache).numpy(), model(ids).numpy()[:, 3:], atol=1e-5)


def test_text_ends_when_every_row_has_ended(model):
    plain = without_cache(model, IDS, 12)[:, 5:]
    eos = int(plain[0, 3])
    found = model.generate(IDS, max_new_tokens=12, eos_token_id=eos).numpy()[:, 5:]
    ends = [list(row).index(eos) if eos in row else 12 for row in plain]
    assert found.shape[1] == min(12, max(ends) + 1)
    for row, expected, end in zip(found, plain, ends):
        np.testing.assert_array_equal(row[: end + 1], expected[: end + 1][: found.shape[1]])
        assert (row[end:] == eos).all()
    alone = model.generate(IDS[:1], max_new_tokens=12, eos_token_id=eos)
    assert alone.shape == [1, 5 + ends[0] + 1]


def test_seed_decides_the_draws(model):
    first, again, other = (
        model.generate(IDS, 12, do_sample=True, seed=seed, temperature=2.0).numpy() for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again) and not np.array_equal(first, other)


@pytest.mark.parametrize("options", [{"temperature": 1e-4}, {"top_p": 1e-6}])
def test_narrow_draws_are_greedy(model, options):
    found = model.generate(IDS, 8, do_sample=True, seed=0, **options)
    np.testing.assert_array_equal(found.numpy(), without_cache(model, IDS, 8))


def test_draws_follow_the_probabilities_within_the_nucleus():
    logits = np.log(np.array([[0.1, 0.5, 0.05, 0.35]]))
    choose = _Chooser(1.0, 0.8, seed=0)
    counts = np.bincount([choose(logits)[0] for _ in range(4000)], minlength=4) / 4000
    assert counts[0] == counts[2] == 0
    assert counts[1] == pytest.approx(0.5 / 0.85, abs=0.03)
    cooler = _Chooser(0.5, 1.0, seed=0)
    counts = np.bincount([cooler(logits)[0] for _ in range(4000)], minlength=4) / 4000
    assert counts == pytest.approx(np.array([0.01, 0.25, 0.0025, 0.1225]) / 0.385, abs=0.03)


def test_a_training_run_is_left_as_it_was(model):
    model.train()
    paddle.seed(5)
    np.random.seed(5)
    model.generate(IDS, 3, do_sample=True)
    drawn = paddle.rand([2]).numpy(), np.random.rand()
    assert model.training and model.llama.layers[0].training
    paddle.seed(5)
    np.random.seed(5)
    assert np.array_equal(drawn[0], paddle.rand([2]).numpy()) and drawn[1] == np.random.rand()
    model.eval()
    assert model.generate(IDS, 1).stop_gradient and not model.training


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature=0.0 must be above 0"),
        ({"top_p": 1.5}, "top_p=1.5"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
    ],
)
def test_settings_out_of_range_are_refused(model, options, message):
    with pytest.raises(UsageError, match=message):
        model.generate(IDS, do_sample=True, **options)


def test_nothing_to_continue_is_refused(model):
    with pytest.raises(UsageError, match=r"found \[1, 0\]"):
        model.generate(np.zeros([1, 0], "int64"))
