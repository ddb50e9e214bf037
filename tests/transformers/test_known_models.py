"""The models known by name: all that the reference lists, each of the size that its name or its publishers say."""

from __future__ import annotations

import math
import re
from pathlib import Path

import paddle
import pytest

from paddlenlp.parallel.random import skip_initialisation
from paddlenlp.transformers import AutoConfig, AutoModelForCausalLM
from paddlenlp.transformers.known_models import known_config, known_names

LISTED = Path(__file__).with_name("seed_names.txt").read_text(encoding="utf-8").split()
SIZE = re.compile(r"(?<![\dxA-Za-z.])(\d+(?:\.\d+)?)(b(\d)?|m)(?![a-z0-9])", re.I)
KIND = re.compile(r"-(base|chat|instruct|it|zero)$", re.I)
# Parameters in billions, as model cards and papers count them, where the name says something else or nothing.
PUBLISHED = {
    "google/gemma-2b": 2.506,
    "google/gemma-7b": 8.538,
    "meta-llama/Llama-3.2-1B": 1.236,
    "meta-llama/Llama-Guard-3-1B": 1.236,  # stored with the head once more: 1.499
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": 1.777,
    "deepseek-ai/DeepSeek-V2": 235.7,
    "deepseek-ai/DeepSeek-V2-Lite": 15.7,
    "deepseek-ai/DeepSeek-Coder-V2": 235.7,
    "deepseek-ai/DeepSeek-Coder-V2-Lite": 15.7,
    "deepseek-ai/DeepSeek-V3": 671.0,
    "deepseek-ai/DeepSeek-R1": 671.0,
    "mistralai/Mixtral-8x7B-Instruct-v0.1": 46.7,
    "Qwen/Qwen1.5-MoE-A2.7B": 14.3,
    "Qwen/Qwen2-57B-A14B": 57.4,
    "Qwen/Qwen2-7B": 7.616,
    "Qwen/Qwen2-1.5B": 1.544,
    "Qwen/Qwen2.5-0.5B": 0.494,
    "Qwen/Qwen2.5-72B": 72.7,
    "baichuan-inc/Baichuan2-13B": 13.9,
    "bigscience/bloom-560m": 0.559,
    "facebook/opt-350m": 0.331,
    "facebook/llama-65b": 65.29,
    "meta-llama/Meta-Llama-3.1-405B": 405.9,
    "THUDM/chatglm-6b": 6.17,
    "THUDM/chatglm2-6b": 6.24,
}


def parameters(name: str) -> int:
    """Number of parameters of the model called `name`, of which nothing is allocated.

    Two shallow ones are built. What one layer more adds counts for all further ones: they are alike.
    """
    config = AutoConfig.from_pretrained(name)
    layers, shallow = config.num_hidden_layers, config.get("first_k_dense_replace", 0) + 1
    fewer, more = (_built(name, depth) for depth in (shallow, shallow + 1))
    return fewer + (layers - shallow) * (more - fewer)


def _built(name: str, depth: int) -> int:
    config = AutoConfig.from_pretrained(name)
    config.num_hidden_layers = depth
    with paddle.LazyGuard(), skip_initialisation():
        model = AutoModelForCausalLM.from_config(config)
    return sum(math.prod(param.whole_shape) for param in model.parameters())


def size_in(name: str) -> float:
    """Billions of parameters that a name tells, as "7b", "560m" or "1b1"; 0 where it tells none."""
    found = SIZE.search(name.rsplit("/", 1)[-1])
    if found is None:
        return 0.0
    number, unit, tenths = found.groups()
    return float(number) / 1000 if unit.lower() == "m" else float(number) + float(tenths or 0) / 10


@pytest.fixture(scope="module")
def counted():
    """counted(name) -> billions of parameters, each shape counted once."""
    found = {}

    def count(name):
        key = repr(sorted(known_config(name).items(), key=str))
        if key not in found:
            found[key] = parameters(name) / 1e9
        return found[key]

    return count


def test_the_list_is_whole():
    assert len(LISTED) == len(set(LISTED)) > 140
    assert sorted(set(LISTED) - set(known_names())) == []


def test_sizes_are_read_from_names():
    names = ["facebook/llama-7b", "bigscience/bloom-1b1", "bigscience/bloom-560m", "Qwen/Qwen2.5-7B-Instruct-1M"]
    assert [size_in(name) for name in names] == [7, 1.1, 0.56, 7]
    assert size_in("mistralai/Mixtral-8x7B-Instruct-v0.1") == size_in("Qwen/Qwen1.5-MoE-A2.7B") == 0


@pytest.mark.parametrize("name", known_names())
def test_a_known_name_has_a_family_and_its_special_tokens(name):
    config = AutoConfig.from_pretrained(name)
    model = AutoModelForCausalLM.model_class(config)
    assert model.config_class is type(config) and model.__name__.endswith("ForCausalLM")
    for token in (config.bos_token_id, config.pad_token_id):
        assert token is None or 0 <= token < config.vocab_size


@pytest.mark.parametrize("name", known_names())
def test_a_known_name_has_the_size_it_tells(counted, name):
    count, base = counted(name), KIND.sub("", name)
    if base in PUBLISHED:
        assert count == pytest.approx(PUBLISHED[base], rel=0.004)
    elif size_in(name):
        assert count == pytest.approx(size_in(name), rel=0.15)
    else:
        assert count > 0
