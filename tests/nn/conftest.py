"""A tiny model and its tokens, and policies that are put back after each test."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import paddle
import pytest

from paddlenlp.nn.precision import Precision, set_precision
from paddlenlp.nn.recompute import RecomputePolicy, set_recompute
from paddlenlp.transformers.llama.configuration import LlamaConfig
from paddlenlp.transformers.llama.modeling import LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parent))

SIZES = {
    "vocab_size": 83,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}


@pytest.fixture(autouse=True)
def _policies():
    yield
    set_precision(Precision())
    set_recompute(RecomputePolicy())


@pytest.fixture
def build():
    """build(dtype=..., **changes): a model with the same initial values each time."""

    def make(dtype="float32", **changes):
        return LlamaForCausalLM.from_config(LlamaConfig(**{**SIZES, **changes}), dtype=dtype)

    return make


@pytest.fixture
def batch():
    """Four rows of 16 tokens, a third of whose labels are left out, unevenly over the rows."""
    random = np.random.default_rng(0)
    ids = random.integers(0, SIZES["vocab_size"], (4, 17))
    labels = np.where(random.random((4, 16)) < np.array([[0.1], [0.2], [0.9], [0.1]]), -100, ids[:, 1:])
    return {"input_ids": paddle.to_tensor(ids[:, :-1]), "labels": paddle.to_tensor(labels)}
