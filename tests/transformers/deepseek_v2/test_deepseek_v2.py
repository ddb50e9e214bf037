"""What only DeepSeek-V2 has: which layers have experts, and how they are chosen."""

from __future__ import annotations

import pytest

from paddlenlp.nn import GatedMLP, MoE
from paddlenlp.transformers import DeepseekV2Config, DeepseekV2ForCausalLM
from paddlenlp.utils.errors import UsageError

SIZES = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "moe_intermediate_size": 8,
    "num_hidden_layers": 5,
    "num_attention_heads": 2,
    "q_lora_rank": None,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 4,
    "qk_rope_head_dim": 4,
    "v_head_dim": 4,
}
EXPERTS = {"n_routed_experts": 4, "num_experts_per_tok": 2}


def test_a_model_without_experts():
    config = DeepseekV2Config(**SIZES)
    assert not any(config.is_sparse(index) for index in range(5))
    model = DeepseekV2ForCausalLM.from_config(config)
    assert all(type(layer.mlp) is GatedMLP for layer in model.deepseek_v2.layers)


def test_which_layers_have_experts():
    config = DeepseekV2Config(**SIZES, **EXPERTS, first_k_dense_replace=1, moe_layer_freq=2)
    assert [config.is_sparse(index) for index in range(5)] == [False, False, True, False, True]
    model = DeepseekV2ForCausalLM.from_config(config)
    assert [type(layer.mlp) is MoE for layer in model.deepseek_v2.layers] == [False, False, True, False, True]
    assert not any("shared" in name for name, _ in model.named_parameters())


def test_ways_to_choose():
    groups = {"n_group": 2, "topk_group": 1}
    built = {}
    for method in ("gready", "group_limited_greedy", "noaux_tc"):
        config = DeepseekV2Config(**SIZES, **EXPERTS, **groups, topk_method=method, num_nextn_predict_layers=0)
        config.num_hidden_layers = 1
        gate = DeepseekV2ForCausalLM.from_config(config).deepseek_v2.layers[0].mlp.gate
        built[config.topk_method] = gate.groups, gate.e_score_correction_bias is not None
    assert built == {"greedy": (1, False), "group_limited_greedy": (2, False), "noaux_tc": (2, True)}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"qk_rope_head_dim": 3}, "qk_rope_head_dim=3 must be even"),
        ({"num_key_value_heads": 1}, "num_key_value_heads=1 is not num_attention_heads=2"),
        ({"n_routed_experts": 4}, "n_routed_experts=4 needs num_experts_per_tok"),
        ({**EXPERTS, "topk_method": "random"}, "topk_method='random' must be one of greedy"),
        ({**EXPERTS, "topk_method": "noaux_tc"}, "needs n_group and topk_group"),
        ({**EXPERTS, "seq_aux": False}, "seq_aux=false: the balance loss is taken for each sequence"),
    ],
)
def test_values_that_contradict(values, message):
    with pytest.raises(UsageError, match=message):
        DeepseekV2Config(**{**SIZES, **values})
