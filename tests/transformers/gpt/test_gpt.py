"""What only GPT has: two spellings of its configuration, names of PaddleNLP, learned positions."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest

from paddlenlp.transformers import AutoConfig, AutoModelForCausalLM, GPTConfig, GPTForCausalLM
from paddlenlp.utils.errors import UsageError

SIZES = {
    "vocab_size": 32,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 8,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def test_spellings():
    values = {"model_type": "gpt2", "n_embd": 16, "n_head": 4, "n_layer": 3, "n_positions": 9, "n_inner": None}
    config = AutoConfig.from_dict({**values, "activation_function": "gelu", "resid_pdrop": 0.3, "embd_pdrop": 0.2})
    assert isinstance(config, GPTConfig)
    assert (config.hidden_size, config.num_hidden_layers, config.max_position_embeddings) == (16, 3, 9)
    assert (config.intermediate_size, config.hidden_act, config.head_dim) == (64, "gelu", 4)
    assert (config.hidden_dropout_prob, config.embedding_dropout_prob) == (0.3, 0.2)
    written = config.to_hf_dict()
    assert {**values, "n_inner": 64, "embd_pdrop": 0.2}.items() <= written.items()
    assert written["architectures"] == ["GPT2LMHeadModel"] and "hidden_size" not in written


def test_paddlenlp_means_the_tanh_approximation():
    config = AutoConfig.from_dict({"model_type": "gpt", **SIZES, "hidden_activation": "gelu"})
    assert config.hidden_act == "gelu_new" and config.embedding_dropout_prob == 0.0


def test_names_of_paddlenlp(hf, tmp_path):
    """Separate queries, keys and values, matrices [in, out]."""
    model = GPTForCausalLM.from_config(GPTConfig(**SIZES))
    state = {name: param.numpy() for name, param in model.named_parameters()}
    arrays = {
        "gpt.embeddings.word_embeddings.weight": state["gpt.wte.weight"],
        "gpt.embeddings.position_embeddings.weight": state["gpt.wpe.weight"],
        "gpt.decoder.norm.weight": state["gpt.ln_f.weight"],
        "gpt.decoder.norm.bias": state["gpt.ln_f.bias"],
    }
    for i in range(2):
        ours, theirs = f"gpt.h.{i}", f"gpt.decoder.layers.{i}"
        pairs = {"norm1": "ln_1", "norm2": "ln_2", "self_attn.out_proj": "attn.c_proj"}
        pairs.update({"linear1": "mlp.c_fc", "linear2": "mlp.c_proj"})
        for leaf in ("weight", "bias"):
            arrays.update({f"{theirs}.{a}.{leaf}": state[f"{ours}.{b}.{leaf}"] for a, b in pairs.items()})
            parts = np.split(state[f"{ours}.attn.c_attn.{leaf}"], 3, -1)
            arrays.update(
                {f"{theirs}.self_attn.{n}_proj.{leaf}": np.ascontiguousarray(p) for n, p in zip("qkv", parts)}
            )
    hf.write_folder(tmp_path, arrays, metadata={"format": "np"})
    config = {"architectures": ["GPTForCausalLM"], "model_type": "gpt", **SIZES}
    (tmp_path / "config.json").write_text(json.dumps(config))
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = paddle.to_tensor(np.arange(8).reshape(1, 8))
    np.testing.assert_array_equal(again(ids).numpy(), model(ids).numpy())


def test_longer_than_the_table():
    model = GPTForCausalLM.from_config(GPTConfig(**SIZES))
    with pytest.raises(UsageError, match="max_position_embeddings=8"):
        model(paddle.zeros([1, 9], "int64"))


def test_hidden_states_are_dropped_in_training_only():
    for rate in ("hidden_dropout_prob", "embedding_dropout_prob", "attention_probs_dropout_prob"):
        model = GPTForCausalLM.from_config(GPTConfig(**{**SIZES, "initializer_range": 0.5, rate: 0.5}))
        ids = paddle.to_tensor(np.arange(8).reshape(1, 8))
        assert np.abs(model(ids).numpy() - model(ids).numpy()).max() > 0
        model.eval()
        np.testing.assert_array_equal(model(ids).numpy(), model(ids).numpy())


def test_what_is_not_built():
    with pytest.raises(UsageError, match="scale_attn_by_inverse_layer_idx=True"):
        GPTConfig(**SIZES, scale_attn_by_inverse_layer_idx=True)
