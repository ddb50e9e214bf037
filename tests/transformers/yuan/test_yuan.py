"""What only Yuan has: one matrix for queries and keys, read from two."""

from __future__ import annotations

import pytest

from paddlenlp.transformers import YuanConfig, YuanForCausalLM
from paddlenlp.utils.errors import UsageError

SIZES = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 4}


def test_size_of_the_whole():
    model = YuanForCausalLM.from_config(YuanConfig(**SIZES))
    attention, mlp, norms = 4 * 16 * 16, 3 * 16 * 24, 4 * 16
    taps, biases, table = 2 * 2 * 16 * 8, 8 + 16, 32 * 16
    assert model.num_parameters() == attention + mlp + norms + taps + biases + table
    pairs = 2 * 16 * 10
    assert model.flops_per_token(10) == 6.0 * (attention + mlp + taps + table + pairs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_shareqk": True}, "use_shareqk=True"),
        ({"causal_mask": False}, "causal_mask=False"),
        ({"num_key_value_heads": 2}, "num_key_value_heads=2"),
        ({"hidden_size": 15, "num_attention_heads": 3}, "hidden_size=15 must be even"),
    ],
)
def test_what_is_not_built(changes, message):
    with pytest.raises(UsageError, match=message):
        YuanConfig(**{**SIZES, **changes})


def test_no_number_of_key_heads():
    assert YuanConfig(**SIZES, num_key_value_heads=None).num_key_value_heads == 4
