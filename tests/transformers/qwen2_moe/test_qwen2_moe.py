"""What only Qwen2-MoE has: which layers have experts, and which see a window."""

from __future__ import annotations

import pytest

from paddlenlp.nn import GatedMLP, MoE
from paddlenlp.transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM
from paddlenlp.utils.errors import UsageError

SIZES = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "moe_intermediate_size": 8,
    "shared_expert_intermediate_size": 12,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts": 4,
    "num_experts_per_tok": 2,
}


@pytest.mark.parametrize(
    ("values", "sparse"),
    [
        ({}, [True] * 4),
        ({"mlp_only_layers": None}, [True] * 4),
        ({"mlp_only_layers": [0, 2]}, [False, True, False, True]),
        ({"decoder_sparse_step": 2}, [False, True, False, True]),
        ({"decoder_sparse_step": 2, "mlp_only_layers": [3]}, [False, True, False, False]),
    ],
)
def test_which_layers_have_experts(values, sparse):
    config = Qwen2MoeConfig(**SIZES, **values)
    layers = Qwen2MoeForCausalLM.from_config(config).qwen2_moe.layers
    assert [type(layer.mlp) for layer in layers] == [MoE if expected else GatedMLP for expected in sparse]


def test_which_layers_see_a_window():
    def windows(**values):
        config = Qwen2MoeConfig(**SIZES, sliding_window=8, **values)
        return [config.window(index) for index in range(4)]

    kinds = ["full_attention", "sliding_attention"] * 2
    assert windows() == [None] * 4
    assert windows(layer_types=kinds) == [None] * 4
    assert windows(use_sliding_window=True, max_window_layers=3) == [8, None, 8, None]
    assert windows(use_sliding_window=True, layer_types=kinds) == [None, 8, None, 8]


def test_the_balance_loss_is_shared_by_the_sparse_layers():
    assert Qwen2MoeConfig(**SIZES).balance == 0
    config = Qwen2MoeConfig(**SIZES, output_router_logits=True, router_aux_loss_coef=0.3, mlp_only_layers=[0])
    assert config.balance == pytest.approx(0.3 * 2 / 3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_experts_per_tok": 5}, "num_experts_per_tok=5 is not between 1 and num_experts=4"),
        ({"decoder_sparse_step": 0}, "decoder_sparse_step=0 must be a positive whole number"),
        ({"use_sliding_window": True, "sliding_window": None}, "sliding_window=None must be a number"),
        ({"use_sliding_window": True, "layer_types": ["full_attention"]}, "layer_types names 1 of num_hidden_layers=4"),
        ({"head_dim": 5}, "head_dim=5 must be even"),
    ],
)
def test_values_that_contradict(values, message):
    with pytest.raises(UsageError, match=message):
        Qwen2MoeConfig(**{**SIZES, **values})
