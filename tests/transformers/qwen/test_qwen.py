"""What only the first Qwen has: the spelling of its configuration, and what acts in evaluation only."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddlenlp.transformers import AutoConfig, AutoModelForCausalLM, Qwen2Config, QWenConfig, QWenForCausalLM
from paddlenlp.utils.errors import UsageError

SIZES = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "kv_channels": 8,
    "seq_length": 4,
    "initializer_range": 0.5,
}


def test_spellings_of_sizes():
    config = AutoConfig.from_dict({"architectures": ["QWenLMHeadModel"], **SIZES})
    assert isinstance(config, QWenConfig) and config.head_dim == 8
    assert AutoModelForCausalLM.model_class(config) is QWenForCausalLM
    written = config.to_hf_dict()
    assert SIZES.items() <= written.items() and "head_dim" not in written
    assert QWenConfig(max_position_embeddings=99).seq_length == 99


def test_the_second_series_is_another_family():
    assert isinstance(AutoConfig.from_dict({"architectures": ["Qwen2ForCausalLM"]}), Qwen2Config)


@pytest.mark.parametrize("changes", [{"use_dynamic_ntk": False}, {"use_logn_attn": False}])
def test_each_acts_in_evaluation_beyond_the_trained_length(changes):
    ids = paddle.to_tensor(np.arange(10).reshape(1, 10))
    plain = QWenForCausalLM.from_config(QWenConfig(**SIZES, use_dynamic_ntk=False, use_logn_attn=False))
    model = QWenForCausalLM.from_config(QWenConfig(**SIZES, **changes))
    np.testing.assert_array_equal(model(ids).numpy(), plain(ids).numpy())
    for each in (plain, model):
        each.eval()
    np.testing.assert_array_equal(model(ids[:, :4]).numpy(), plain(ids[:, :4]).numpy())
    assert np.abs(model(ids).numpy() - plain(ids).numpy()).max() > 1e-3


def test_embeddings_are_dropped_in_training_only():
    model = QWenForCausalLM.from_config(QWenConfig(**SIZES, emb_dropout_prob=0.5))
    ids = paddle.to_tensor(np.arange(4).reshape(1, 4))
    assert np.abs(model(ids).numpy() - model(ids).numpy()).max() > 0
    model.eval()
    np.testing.assert_array_equal(model(ids).numpy(), model(ids).numpy())


def test_an_odd_width():
    with pytest.raises(UsageError, match="intermediate_size=25 must be even"):
        QWenConfig(**{**SIZES, "intermediate_size": 25})
