"""What a family makes of token ids where positions and masks aren't given."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddlenlp.nn import KVCache
from paddlenlp.nn.program import describe, read
from paddlenlp.transformers import ChatGLMConfig, ChatGLMForCausalLM

BEGIN = 7
IDS = np.array([[1, 2, 3, BEGIN, 4, 5], [1, 2, 3, 4, 5, 6]])


@pytest.fixture(scope="module")
def model():
    config = ChatGLMConfig(
        vocab_size=10,
        hidden_size=16,
        inner_hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=BEGIN,
        mask_token_id=8,
        gmask_token_id=9,
        initializer_range=0.3,
    )
    model = ChatGLMForCausalLM.from_config(config)
    model.eval()
    return model


def test_others_leave_both_open(build):
    batch = describe(build(), paddle.to_tensor(IDS))
    assert batch.positions is None and batch.attention_mask is None and batch.length == 6


def test_the_family_says_both(model):
    batch = describe(model, paddle.to_tensor(IDS))
    assert batch.positions.tolist() == [
        [[0, 1, 2, 2, 2, 2], [0, 0, 0, 1, 2, 3]],
        [[0, 0, 0, 0, 0, 0], [1, 2, 3, 4, 5, 6]],
    ]
    assert batch.length == 7
    assert batch.attention_mask.numpy()[:, 0, 0].tolist() == [[True] * 3 + [False] * 3, [True] + [False] * 5]


def test_padding_goes_on_top_and_a_whole_mask_in_place(model):
    ids, told = paddle.to_tensor(IDS), describe(model, paddle.to_tensor(IDS)).attention_mask.numpy()
    padding = np.ones((2, 6), np.int64)
    padding[0, 1] = 0
    found = describe(model, ids, attention_mask=paddle.to_tensor(padding)).attention_mask.numpy()
    np.testing.assert_array_equal(found, told & padding.astype(bool)[:, None, None])
    whole = paddle.ones([2, 1, 6, 6], "bool")
    assert describe(model, ids, attention_mask=whole).attention_mask is whole


def test_given_positions_are_kept(model):
    places = paddle.zeros([2, 2, 6], "int64") + 4
    batch = read(model, {"input_ids": paddle.to_tensor(IDS), "labels": paddle.to_tensor(IDS), "position_ids": places})
    assert batch.batch.positions is places and batch.batch.attention_mask is not None


def test_after_a_cache_all_that_was_read_is_looked_at(model):
    ids = paddle.to_tensor(IDS)
    whole, cache = model(ids).numpy(), KVCache(2)
    # Of a context that is cut between two readings the first part has not seen the second one.
    for start, end in ((0, 4), (4, 5), (5, 6)):
        part = model(ids[:, start:end], cache=cache).numpy()
        np.testing.assert_allclose(part, whole[:, start:end], rtol=1e-4, atol=1e-5)
    assert cache.ids.tolist() == IDS.tolist()


def test_the_context_makes_a_difference(model):
    ids = paddle.to_tensor(IDS)
    causal = paddle.tril(paddle.ones([6, 6])).astype("bool").unsqueeze([0, 1])
    told, plain = model(ids).numpy(), model(ids, attention_mask=causal).numpy()
    assert np.abs(told[0] - plain[0]).max() > 1e-3
    np.testing.assert_allclose(told[1], plain[1], atol=1e-6)
