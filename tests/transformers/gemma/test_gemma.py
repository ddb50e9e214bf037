"""What only Gemma has: the activation it means, scaled embeddings, norms that add one to their weight."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddlenlp.nn import Precision, set_precision
from paddlenlp.transformers import GemmaConfig, GemmaForCausalLM
from paddlenlp.utils.errors import UsageError

SIZES = {
    "vocab_size": 32,
    "hidden_size": 12,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}


@pytest.mark.parametrize(
    ("values", "activation"),
    [
        ({}, "gelu_pytorch_tanh"),
        ({"hidden_act": "gelu"}, "gelu_pytorch_tanh"),
        ({"hidden_act": "gelu", "hidden_activation": None}, "gelu_pytorch_tanh"),
        ({"hidden_act": "gelu", "hidden_activation": "relu"}, "relu"),
        ({"hidden_act": "silu"}, "silu"),
    ],
)
def test_the_activation_it_means(values, activation):
    config = GemmaConfig(**SIZES, **values)
    assert config.hidden_act == activation
    assert GemmaConfig(**config.to_hf_dict()).hidden_act == activation


def test_norms_start_at_one():
    model = GemmaForCausalLM.from_config(GemmaConfig(**SIZES))
    norms = {name: param.numpy() for name, param in model.named_parameters() if "norm" in name}
    assert len(norms) == 3 and not any(norm.any() for norm in norms.values())
    x = paddle.to_tensor(np.array([[3.0] * 12], np.float32))
    np.testing.assert_allclose(model.gemma.norm(x).numpy(), np.ones([1, 12]), rtol=1e-5)


def test_embeddings_are_scaled():
    embed = GemmaForCausalLM.from_config(GemmaConfig(**SIZES)).gemma.embed_tokens
    rows, table = embed(paddle.to_tensor([3, 5])).numpy(), embed.weight.numpy()
    np.testing.assert_allclose(rows, table[[3, 5]] * np.sqrt(12), rtol=1e-6)


def test_the_scale_is_rounded_as_the_compute_dtype_has_it():
    set_precision(Precision("bfloat16", "bfloat16", emulated=True))
    try:
        embed = GemmaForCausalLM.from_config(GemmaConfig(**SIZES), dtype="bfloat16").gemma.embed_tokens
        embed.weight.set_value(paddle.ones_like(embed.weight.astype("float32")).astype("bfloat16"))
        rows = embed(paddle.to_tensor([3])).numpy()
    finally:
        set_precision(Precision())
    np.testing.assert_array_equal(rows, np.full([1, 12], 3.46875))  # sqrt(12) = 3.4641; 3.453125 is the other neighbour


def test_odd_heads_are_refused():
    with pytest.raises(UsageError, match="head_dim=7 must be even"):
        GemmaConfig(**{**SIZES, "head_dim": 7})
