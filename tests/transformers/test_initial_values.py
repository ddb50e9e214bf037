"""What training from scratch starts from, in every family.

The deviation is `initializer_range`. Matrices that write to the residual stream start smaller by 1 / sqrt(2 layers), as
GPT-2's do: published so for GPT-3 (arXiv:2005.14165, 2.1), OPT (arXiv:2205.01068, 2.2), in Qwen's released code, and
what PaddleNLP does for LLaMA and those like it, whose papers say nothing. DeepSeek's do not (arXiv:2405.04434, 3.1.2,
and arXiv:2412.19437, 4.2: all parameters alike). GLM's follow DeepNorm (arXiv:2203.00555), which scales values and all
of the feed-forward block as well.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from paddlenlp import transformers

sys.path.append(str(Path(__file__).resolve().parent))
from families import ROWS

LAYERS, STD = 8, 0.05
DEEP_NORM = ("ChatGLM", "GLM-130B")


def parameters(row):
    layers = {"num_hidden_layers": LAYERS}
    sizes = {name: value for name, value in row.config.items() if name not in ("num_layers", "n_layer")}
    config = getattr(transformers, f"{row.prefix}Config")(**{**sizes, **layers, "initializer_range": STD})
    return getattr(transformers, f"{row.prefix}ForCausalLM").from_config(config)


def expected_scale(row, name):
    """Of the matrix `name`, in parts of STD; a tuple for the columns of queries, keys and values."""
    layer = name.rpartition(".")[0].rpartition(".")[2]
    small = (2 * LAYERS) ** -0.5
    if row.name in DEEP_NORM and layer == "query_key_value":
        return 1.0, 1.0, small
    closes = layer in row.closing and row.scaled
    return small if closes or (row.name in DEEP_NORM and layer == "dense_h_to_4h") else 1.0


def assert_deviation(values, std, name):
    """The mean is 0 and the deviation `std`, to five times what chance makes of them."""
    count = values.size
    assert abs(values.mean()) < 5 * std / count**0.5, name
    assert abs(values.std() / std - 1) < 5 / (2 * count) ** 0.5, (name, values.std(), std)


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_deviations(row):
    model, seen = parameters(row), set()
    for name, param in model.named_parameters():
        values, scale = param.numpy().astype(np.float64), expected_scale(row, name)
        if values.ndim == 1:
            one = "norm" in name.split(".")[-2] or ".ln_" in name
            start = 1.0 if one and name.endswith("weight") and row.name != "Gemma" else 0.0
            assert (values == start).all(), name
        elif isinstance(scale, tuple):
            for part, factor in zip(param.fusion.separate(values), scale):
                assert_deviation(part, STD * factor, name)
        else:
            assert_deviation(values, STD * scale, name)
        seen.add(name.rpartition(".")[0].rpartition(".")[2])
    assert set(row.closing) <= seen
