"""What only Mixtral has: the spelling and the weight of its experts."""

from __future__ import annotations

import pytest

from paddlenlp.transformers import MixtralConfig, MixtralForCausalLM
from paddlenlp.utils.errors import UsageError

SIZES = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 3,
}


def test_names_of_released_checkpoints():
    model = MixtralForCausalLM.from_config(MixtralConfig(**SIZES))
    names = [name for name, _ in model.named_parameters() if ".layers.1.block_sparse_moe." in name]
    matrices = [f"experts.{expert}.{matrix}" for expert in range(3) for matrix in ("w1", "w3", "w2")]
    assert names == [f"mixtral.layers.1.block_sparse_moe.{name}.weight" for name in ["gate", *matrices]]


def test_the_balance_loss_is_off_until_asked_for():
    assert MixtralConfig(**SIZES).balance == 0.0
    assert MixtralConfig(**SIZES, output_router_logits=True, router_aux_loss_coef=0.1).balance == pytest.approx(0.1)


def test_more_choices_than_experts():
    with pytest.raises(UsageError, match="num_experts_per_tok=4 is not between 1 and num_local_experts=3"):
        MixtralConfig(**SIZES, num_experts_per_tok=4)
