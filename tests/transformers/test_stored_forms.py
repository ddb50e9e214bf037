"""The forms in which files of a family may come: prefixes, stray tables, tied heads, bfloat16, shards. One by one they
give the same model."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file

from paddlenlp.transformers import AutoConfig, AutoModelForCausalLM
from paddlenlp.transformers.conversion_utils import hf_name
from paddlenlp.utils.errors import UsageError

sys.path.append(str(Path(__file__).resolve().parent))
from families import CASES, ROWS

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
FIRST = {row.name: f"{row.folder}/{row.variants[0]}" for row in ROWS}
LAST = {row.name: f"{row.folder}/{row.variants[-1]}" for row in ROWS}


@pytest.fixture()
def store(hf, tmp_path):
    """Writes arrays beside the configuration of a fixture, and gives the parameters of the model that is read."""

    def write(case, arrays, shards=1, dtype=None):
        values = json.loads((FIXTURES / case / "config.json").read_text())
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        hf.write_folder(folder, arrays, shards, {"format": "pt"}, values)
        (folder / "config.json").write_text(json.dumps(values))
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)

    return write


def arrays_of(case):
    return load_file(str(FIXTURES / case / "model.safetensors"))


def assert_same(found, expected):
    found, expected = ({name: param.numpy() for name, param in model.named_parameters()} for model in (found, expected))
    assert sorted(found) == sorted(expected)
    assert [name for name in found if found[name].tobytes() != expected[name].tobytes()] == []


def prefix_of(model):
    """What the Hugging Face names of a family begin with, but for its head's."""
    return hf_name(model, next(name for name, _ in model.named_parameters())).partition(".")[0] + "."


def head_of(model):
    """The Hugging Face name of the head's matrix."""
    return hf_name(model, f"{model.head_name}.weight")


@pytest.mark.parametrize("name", FIRST)
def test_with_and_without_prefix(store, name):
    arrays = arrays_of(FIRST[name])
    model = store(FIRST[name], arrays)
    prefix = prefix_of(model)
    inner = {key[len(prefix) :]: x for key, x in arrays.items() if key.startswith(prefix)}
    head = {key: x for key, x in arrays.items() if not key.startswith(prefix)}
    assert inner and set(head) <= {head_of(model)}
    assert_same(store(FIRST[name], {**inner, **head}), model)


@pytest.mark.parametrize("name", FIRST)
def test_stray_tables_are_ignored(store, name):
    arrays = arrays_of(FIRST[name])
    layer = next(key.partition(".0.")[0] for key in arrays if ".0." in key) + ".0."
    table = np.zeros(3, np.float32)
    stray = ["self_attn.rotary_emb.inv_freq", "attn.bias", "attn.masked_bias", "attention.masked_bias"]
    more = {f"{layer}{name}": table for name in stray}
    model = store(FIRST[name], arrays)
    assert_same(store(FIRST[name], {**arrays, **more, f"{prefix_of(model)}rotary_pos_emb.inv_freq": table}), model)
    with pytest.raises(UsageError, match="1 not part of the model"):
        store(FIRST[name], {**arrays, f"{layer}strange": table})


@pytest.mark.parametrize("case", CASES)
def test_tied_heads_are_stored_or_not(store, case):
    config, arrays = AutoConfig.from_pretrained(FIXTURES / case), arrays_of(case)
    model = store(case, arrays)
    if not config.tie_word_embeddings:
        with pytest.raises(UsageError, match="1 missing"):
            store(case, {name: x for name, x in arrays.items() if name != head_of(model)})
        return
    assert not any("lm_head" in name for name in arrays)
    table = hf_name(model, next(name for name, _ in model.named_parameters()))
    assert_same(store(case, {**arrays, "lm_head.weight": arrays[table]}), model)


@pytest.mark.parametrize("name", LAST)
def test_bfloat16_and_shards(store, name):
    case = LAST[name]
    bits = {key: (x.view(np.uint32) >> 16).astype(np.uint16) for key, x in arrays_of(case).items()}
    wide = {key: (x.astype(np.uint32) << 16).view(np.float32) for key, x in bits.items()}
    assert_same(store(case, bits, shards=3, dtype="float32"), store(case, wide))
    narrow = store(case, bits, shards=3)
    assert narrow.config.dtype == "bfloat16"
    for key, param in narrow.named_parameters():
        assert param.dtype in (paddle.bfloat16, paddle.float32), key
        stored = bits.get(hf_name(narrow, key))
        if stored is not None and param.dtype == paddle.bfloat16:
            assert np.array_equal(param.numpy(), stored.T if param.transposed else stored), key


def reach(config):
    """Numbers of tokens beyond which a model computes differently."""
    scaling = config.get("rope_scaling") or {}
    windows = [config.sliding_window] if config.get("use_sliding_window", True) and config.get("sliding_window") else []
    trained = [scaling.get("original_max_position_embeddings", config.max_position_embeddings)] if scaling else []
    return windows + trained + ([config.seq_length] if config.get("use_dynamic_ntk") else [])


def test_sequences_are_longer_than_windows_and_than_those_of_training():
    found = {}
    for case in CASES:
        with np.load(FIXTURES / case / "expected.npz", allow_pickle=False) as stored:
            length = stored["input_ids"].shape[1]
        config = AutoConfig.from_pretrained(FIXTURES / case)
        found[case] = [length > limit for limit in reach(config)]
    beyond = {case for case, limits in found.items() if limits and all(limits)}
    assert beyond == {
        "deepseek_v2/yarn",
        "deepseek_v3/grouped",
        "llama/dynamic",
        "llama/linear",
        "llama/llama3",
        "mistral/window",
        "mixtral/window",
        "qwen/long",
        "qwen2/longrope",
        "qwen2/window",
        "qwen2/yarn",
        "qwen2_moe/steps",
    }
    # The other one stays within what it was trained on, where it is a plain rotary model.
    assert {case for case, limits in found.items() if limits} - beyond == {"qwen/plain"}


@pytest.mark.parametrize("architecture, extra", [("Qwen2ForRewardModel", "score.0.weight"), ("Qwen2Model", None)])
def test_a_model_without_a_head_gets_a_new_one(architecture, extra, hf, tmp_path):
    arrays, values = arrays_of("qwen2/grouped"), json.loads((FIXTURES / "qwen2/grouped/config.json").read_text())
    del arrays["lm_head.weight"]
    if extra:
        arrays[extra] = np.ones([1, values["hidden_size"]], np.float32)

    def read(name):
        hf.write_folder(tmp_path, arrays, 1, {"format": "pt"}, {**values, "architectures": [name]})
        (tmp_path / "config.json").write_text(json.dumps({**values, "architectures": [name]}))
        return AutoModelForCausalLM.from_pretrained(tmp_path)

    found = dict(read(architecture).named_parameters())
    stored = dict(AutoModelForCausalLM.from_pretrained(FIXTURES / "qwen2/grouped").named_parameters())
    fresh = dict(AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path)).named_parameters())
    for name, param in found.items():
        same_as = fresh if name == "lm_head.weight" else stored
        assert param.numpy().tobytes() == same_as[name].numpy().tobytes(), name
    with pytest.raises(UsageError, match="1 missing"):
        read("Qwen2ForCausalLM")
