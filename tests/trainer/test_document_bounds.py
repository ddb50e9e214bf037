"""Which models, tokenizers and data go with bounds between the documents of a sample."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from paddlenlp.data import DocumentBounds, MMapIndexedDatasetBuilder
from paddlenlp.trainer import DataArguments
from paddlenlp.trainer.document_bounds import document_bounds
from paddlenlp.transformers import BaichuanConfig, BloomConfig, ChatGLMConfig, LlamaConfig
from paddlenlp.utils.errors import UsageError

END = 2


@pytest.fixture
def ask(tmp_path):
    """ask(config, positions, attention, eos=2, length=64): what is found for a dataset whose documents end in 2."""
    with MMapIndexedDatasetBuilder(str(tmp_path / "data"), np.uint16) as builder:
        builder.add_item(np.array([5, 6, END]))
        builder.end_document()
        builder.finalize()

    def find(config, positions, attention, eos=END, length=64):
        options = dict(reset_position_ids=positions, reset_attention_mask=attention, max_seq_length=length)
        tokenizer = SimpleNamespace(eos_token_id=eos, name_or_path="mine")
        return document_bounds(DataArguments(**options), config, tokenizer, [str(tmp_path / "data")])

    return find


@pytest.mark.parametrize("asked", [(True, False), (False, True), (True, True)])
def test_what_is_asked_for_is_found(ask, asked):
    assert ask(LlamaConfig(), *asked) == DocumentBounds(END, *asked)


def test_nothing_asked_for_asks_nothing_of_data_and_model(ask):
    assert ask(ChatGLMConfig(), False, False, eos=None) is None


def test_linear_biases_have_no_positions_to_reset(ask):
    for config in (BloomConfig(), BaichuanConfig(alibi=True)):
        assert ask(config, False, True) == DocumentBounds(END, False, True)
        with pytest.raises(UsageError, match=f"{config.model_type} .*reset_position_ids to reset. Set it to false"):
            ask(config, True, True)
    assert ask(BaichuanConfig(alibi=False), True, True) == DocumentBounds(END, True, True)


@pytest.mark.parametrize("asked", [(True, False), (False, True)])
def test_contexts_are_of_whole_samples(ask, asked):
    with pytest.raises(UsageError, match="chatglm .*one context .* Set reset_position_ids and reset_attention_mask to"):
        ask(ChatGLMConfig(), *asked)


def test_angles_that_follow_the_length_of_the_sequence(ask):
    scaled = LlamaConfig(max_position_embeddings=64, rope_scaling={"rope_type": "dynamic", "factor": 2.0})
    assert ask(scaled, True, True) and ask(scaled, False, True, length=65)
    with pytest.raises(UsageError, match="type dynamic .* above 64, and max_seq_length is 65.* at most 64"):
        ask(scaled, True, True, length=65)
    linear = LlamaConfig(max_position_embeddings=64, rope_scaling={"rope_type": "linear", "factor": 2.0})
    assert ask(linear, True, True, length=65)


def test_a_tokenizer_without_an_end_token(ask):
    with pytest.raises(UsageError, match="mine has none: name one in its tokenizer_config.json"):
        ask(LlamaConfig(), True, False, eos=None)


def test_data_without_ends(ask):
    with pytest.raises(UsageError, match="ends in the end-of-text token 7"):
        ask(LlamaConfig(), True, False, eos=7)
