"""What only OPT has: the spelling of its configuration, the stages of its variants, names of PaddleNLP."""

from __future__ import annotations

import pytest

from paddlenlp.transformers import AutoConfig, OPTConfig, OPTForCausalLM
from paddlenlp.transformers.conversion_utils import spellings
from paddlenlp.utils.errors import UsageError

SIZES = {"vocab_size": 32, "hidden_size": 16, "ffn_dim": 20, "num_hidden_layers": 1, "num_attention_heads": 4}


def test_spellings_of_sizes():
    values = {"model_type": "opt", **SIZES, "do_layer_norm_before": False, "dropout": 0.2, "init_std": 0.01}
    config = AutoConfig.from_dict(values)
    assert (config.intermediate_size, config.normalize_before, config.hidden_dropout_prob) == (20, False, 0.2)
    assert config.word_embed_proj_dim == 16 and config.initializer_range == 0.01
    assert values.items() <= config.to_hf_dict().items()
    assert AutoConfig.from_dict(config.to_hf_dict()).to_hf_dict() == config.to_hf_dict()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ["embed_tokens", "embed_positions", "layers.0", "final_layer_norm"]),
        ({"_remove_final_layer_norm": True}, ["embed_tokens", "embed_positions", "layers.0"]),
        (
            {"normalize_before": False, "word_embed_proj_dim": 8},
            ["embed_tokens", "project_in", "embed_positions", "layers.0", "project_out"],
        ),
    ],
    ids=["pre-norm", "no closing norm", "350m"],
)
def test_stages(changes, expected):
    names = [name for name, _ in OPTForCausalLM.stages(OPTConfig(**SIZES, **changes))]
    assert names == [*(f"opt.decoder.{name}" for name in expected), "lm_head"]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("decoder.embed_positions.weight", "embeddings.position_embeddings.weight"),
        ("decoder.layers.3.self_attn_layer_norm.bias", "decoder.layers.3.norm1.bias"),
        ("decoder.layers.3.final_layer_norm.bias", "decoder.layers.3.norm2.bias"),
        ("decoder.layers.3.mlp.fc1.weight", "decoder.layers.3.linear1.weight"),
        ("decoder.final_layer_norm.weight", "decoder.final_layer_norm.weight"),
    ],
)
def test_names_of_paddlenlp(ours, theirs):
    assert f"opt.{theirs}" in spellings(OPTForCausalLM, f"opt.{ours}")


def test_without_biases():
    model = OPTForCausalLM.from_config(OPTConfig(**SIZES, enable_bias=False))
    biases = [name for name, _ in model.named_parameters() if name.endswith("bias")]
    assert biases and all("norm" in name for name in biases)


def test_what_is_not_built():
    with pytest.raises(UsageError, match="layerdrop=0.1"):
        OPTConfig(**SIZES, layerdrop=0.1)
