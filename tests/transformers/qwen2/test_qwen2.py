"""What only Qwen2 has: layers that see a window."""

from __future__ import annotations

import pytest

from paddlenlp.transformers import Qwen2Config
from paddlenlp.utils.errors import UsageError

SIZES = {"num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 16}


def windows(**values):
    config = Qwen2Config(**SIZES, **values)
    return [config.window(index) for index in range(4)]


def test_all_layers_see_all_unless_told():
    assert windows(sliding_window=8, max_window_layers=2) == [None] * 4


def test_the_last_layers_see_a_window():
    assert windows(use_sliding_window=True, sliding_window=8, max_window_layers=3) == [None, None, None, 8]


def test_layer_types_say_which():
    kinds = ["sliding_attention", "full_attention"] * 2
    assert windows(use_sliding_window=True, sliding_window=8, layer_types=kinds) == [8, None, 8, None]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"use_sliding_window": True, "sliding_window": None}, "sliding_window=None must be a number"),
        ({"use_sliding_window": True, "layer_types": ["full_attention"]}, "layer_types names 1 of num_hidden_layers=4"),
        ({"head_dim": 5}, "head_dim=5 must be even"),
    ],
)
def test_values_that_contradict(values, message):
    with pytest.raises(UsageError, match=message):
        Qwen2Config(**SIZES, **values)
