"""What only BLOOM has: its names for sizes, and dropout of hidden states."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddlenlp.transformers import AutoConfig, BloomConfig, BloomForCausalLM
from paddlenlp.utils.errors import UsageError

SIZES = {"vocab_size": 32, "hidden_size": 16, "n_layer": 2, "n_head": 4}


def test_names_of_sizes():
    config = AutoConfig.from_dict({"model_type": "bloom", "n_embed": 16, "num_attention_heads": 4, "n_layer": 3})
    assert (config.hidden_size, config.n_head, config.num_hidden_layers, config.head_dim) == (16, 4, 3, 4)
    assert config.intermediate_size == 64
    assert {"n_layer": 3, "n_head": 4, "hidden_size": 16}.items() <= config.to_diff_dict().items()
    assert "intermediate_size" not in config.to_dict()


def test_a_longer_sequence_needs_no_table():
    config = BloomConfig(**SIZES, seq_length=8)
    config.max_position_embeddings = 64
    assert config.seq_length == 64
    model = BloomForCausalLM.from_config(config)
    assert sorted(name for name, _ in model.named_parameters() if ".h." not in name) == [
        "bloom.ln_f.bias",
        "bloom.ln_f.weight",
        "bloom.word_embeddings.weight",
        "bloom.word_embeddings_layernorm.bias",
        "bloom.word_embeddings_layernorm.weight",
    ]


def test_hidden_states_are_dropped_in_training_only():
    model = BloomForCausalLM.from_config(BloomConfig(**SIZES, hidden_dropout=0.5))
    ids = paddle.to_tensor(np.arange(12).reshape(2, 6))
    model.eval()
    np.testing.assert_array_equal(model(ids).numpy(), model(ids).numpy())
    model.train()
    assert np.abs(model(ids).numpy() - model(ids).numpy()).max() > 0


def test_heads_that_do_not_divide():
    with pytest.raises(UsageError, match="hidden_size=16 is not a multiple of n_head=3"):
        BloomConfig(**{**SIZES, "n_head": 3})
