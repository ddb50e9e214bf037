"""What only Mistral has: a window in every layer."""

from __future__ import annotations

import pytest

from paddlenlp.transformers import MistralConfig, MistralForCausalLM
from paddlenlp.utils.errors import UsageError

SIZES = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.mark.parametrize("window", [5, None])
def test_every_layer_sees_the_window(window):
    model = MistralForCausalLM.from_config(MistralConfig(**SIZES, sliding_window=window))
    assert [layer.self_attn.window for layer in model.mistral.layers] == [window] * 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sliding_window": 0}, "sliding_window=0 must be a number of tokens, or null for all"),
        ({"sliding_window": "all"}, "sliding_window='all' must be a number of tokens"),
        ({"head_dim": 5}, "head_dim=5 must be even"),
        ({"rope_scaling": {"type": "spiral"}}, "rope_type must be one of"),
    ],
)
def test_values_that_contradict(values, message):
    with pytest.raises(UsageError, match=message):
        MistralConfig(**SIZES, **values)
