"""What only Baichuan has: telling its four models apart by their configurations."""

from __future__ import annotations

import pytest

from paddlenlp.transformers import AutoConfig, AutoModelForCausalLM, BaichuanForCausalLM
from paddlenlp.utils.errors import UsageError

SIZES = {"hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 32}


@pytest.mark.parametrize("name", ["BaiChuanForCausalLM", "BaichuanForCausalLM"])
@pytest.mark.parametrize(
    ("changes", "alibi", "normalised"),
    [
        ({"max_position_embeddings": 64}, False, False),
        ({"model_max_length": 64}, True, False),
        ({"max_position_embeddings": 64, "model_max_length": 64, "z_loss_weight": 0}, False, True),
        ({"model_max_length": 64, "vocab_size": 125696}, True, True),
        ({"max_position_embeddings": 64, "alibi": True, "normalised_head": True}, True, True),
    ],
)
def test_which_model(name, changes, alibi, normalised):
    values = {"architectures": [name], "model_type": "baichuan", **SIZES, **changes}
    config = AutoConfig.from_dict(values)
    assert (config.alibi, config.normalised_head, config.max_position_embeddings) == (alibi, normalised, 64)
    config.max_position_embeddings = 128  # as for training on longer sequences
    for again in (AutoConfig.from_dict(config.to_hf_dict()), AutoConfig.from_dict(config.to_dict())):
        assert (again.alibi, again.normalised_head) == (alibi, normalised)
    assert AutoModelForCausalLM.model_class(config) is BaichuanForCausalLM
    assert AutoConfig.from_dict({k: v for k, v in values.items() if k != "model_type"}).alibi == alibi


def test_what_is_built():
    config = AutoConfig.from_dict({"model_type": "baichuan", **SIZES, "model_max_length": 64, "z_loss_weight": 0})
    model = AutoModelForCausalLM.from_config(config)
    attention = model.baichuan.layers[0].self_attn
    assert attention.position is None and attention.slopes is not None and model.lm_head.normalised


def test_a_loss_that_is_not_built():
    with pytest.raises(UsageError, match="z_loss_weight=0.1"):
        AutoConfig.from_dict({"model_type": "baichuan", **SIZES, "z_loss_weight": 0.1})
