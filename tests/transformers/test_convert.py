"""Conversion from folder to folder: the same files as reading and saving the model give, without the model."""

from __future__ import annotations

import os
import shutil
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from paddlenlp.transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, convert
from paddlenlp.transformers.conversion_utils import StoredWeights
from paddlenlp.transformers.convert import convert_model, sketch
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.tensor_files import write_shards

sys.path.append(str(Path(__file__).resolve().parent))
from families import ROWS

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
LAST = {row.name: (f"{row.folder}/{row.variants[-1]}", row.fuses) for row in ROWS}
PT = {"format": "pt"}


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("name", LAST)
def test_there_and_back_bit_for_bit(hf, tmp_path, name):
    """Each way the files are those that the model writes; with matrices fused on the way where the family can."""
    case, fuses = LAST[name]
    options = {f"fuse_attention_{part}": True for part in fuses}
    model = AutoModelForCausalLM.from_pretrained(FIXTURES / case, **options)
    model.save_pretrained(tmp_path / "native")
    model.save_pretrained(tmp_path / "hf", save_to_hf=True)
    done = convert_model(tmp_path / "native", tmp_path / "made hf", "hf")
    assert contents(tmp_path / "made hf") == contents(tmp_path / "hf")
    assert done.left_out == [] and done.size == sum(param.size * 4 for param in model.parameters())
    stored = load_file(str(FIXTURES / case / "model.safetensors"))
    found = load_file(str(tmp_path / "made hf" / "model.safetensors"))
    assert {key: array.tobytes() for key, array in found.items()} == {key: x.tobytes() for key, x in stored.items()}
    convert_model(tmp_path / "made hf", tmp_path / "made native", "native", max_shard_size="4KB")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "made hf")
    plain.save_pretrained(tmp_path / "plain")
    assert hf.read_folder(tmp_path / "made native") == hf.read_folder(tmp_path / "plain")
    sizes = [path.stat().st_size for path in (tmp_path / "made native").glob("model-*.safetensors")]
    assert len(sizes) > 2
    AutoModelForCausalLM.from_pretrained(tmp_path / "made native")


@pytest.mark.parametrize("form", ["hf", "native"])
@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
@pytest.mark.parametrize("wanted", ["float32", "float16", "bfloat16", None])
def test_types(hf, tmp_path, stored, wanted, form):
    hf.write_folder(tmp_path / "source", hf.hf_arrays(stored), 2, PT)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "source", dtype=wanted)
    model.save_pretrained(tmp_path / "expected", save_to_hf=form == "hf")
    convert_model(tmp_path / "source", tmp_path / "made", form, dtype=wanted)
    assert contents(tmp_path / "made") == contents(tmp_path / "expected")


def test_what_a_low_precision_model_keeps_in_float32_stays_so(hf, tmp_path):
    convert_model(FIXTURES / "deepseek_v3/grouped", tmp_path / "low", "hf", dtype="bfloat16")
    low = StoredWeights(tmp_path / "low")
    kinds = {low.dtype(name) for name in low if name.endswith("e_score_correction_bias")}
    assert kinds == {"F32"} and low.dtype("model.embed_tokens.weight") == "BF16"
    convert_model(tmp_path / "low", tmp_path / "again", "native")
    again = StoredWeights(tmp_path / "again")
    assert sorted(again.dtype(name) for name in again) == sorted(low.dtype(name) for name in low)


def test_float32_takes_the_master_weights(hf, tmp_path):
    model = LlamaForCausalLM.from_config(LlamaConfig(**hf.sizes), "bfloat16")
    model.save_pretrained(tmp_path / "low")
    masters = {
        name: np.random.default_rng(0).standard_normal(tuple(param.shape), np.float32)
        for name, param in model.named_parameters()
        if name != "llama.norm.weight"
    }
    write_shards(tmp_path / "low", "master_weights", masters)
    convert_model(tmp_path / "low", tmp_path / "wide", "native", dtype="float32")
    found = StoredWeights(tmp_path / "wide")
    assert all(np.array_equal(found[name], array) for name, array in masters.items())
    assert found.dtype("llama.norm.weight") == "F32" and set(found) == {*masters, "llama.norm.weight"}
    convert_model(tmp_path / "low", tmp_path / "as stored", "native")
    assert StoredWeights(tmp_path / "as stored").stored_dtype() == "bfloat16"
    only = shutil.copytree(tmp_path / "low", tmp_path / "only masters", ignore=shutil.ignore_patterns("model*"))
    write_shards(only, "master_weights", {**masters, "llama.norm.weight": np.ones(16, np.float32)})
    convert_model(only, tmp_path / "of masters", "native")
    found = StoredWeights(tmp_path / "of masters")
    assert all(np.array_equal(found[name], array) for name, array in masters.items())
    index = tmp_path / "low" / "master_weights.safetensors.index.json"
    write_shards(tmp_path / "low", "master_weights", {**masters, "lm_head.weight": np.zeros((48, 16), np.float32)})
    with pytest.raises(UsageError, match="not those of this model: lm_head.weight"):
        convert_model(tmp_path / "low", tmp_path / "none", "native", dtype="float32")
    index.unlink()
    with pytest.raises(UsageError, match="ignore_merge_optimizer"):
        convert_model(tmp_path / "low", tmp_path / "none", "native", dtype="float32")


def test_the_other_files_come_along(hf, tmp_path):
    source = hf.write_folder(tmp_path / "source", hf.hf_arrays(), 1, PT, {"auto_map": {"AutoModel": "x.Y"}})
    extra = {"tokenizer_config.json": b"{}", "vocab.json": b'{"a": 0}', "merges.txt": b"", "chat_template.jinja": b"{}"}
    for name, content in extra.items():
        (source / name).write_bytes(content)
    (source / "modeling_odd.py").write_text("raise SystemExit")
    (source / "generation_config.json").write_text('{"top_p": 0.5}')
    before = hf.state_of(source)
    convert_model(source, tmp_path / "made", "native")
    assert hf.state_of(source) == before
    made = contents(tmp_path / "made")
    assert {name: made[name] for name in extra} == extra and "modeling_odd.py" not in made
    assert b"top_p" in made["generation_config.json"]
    assert AutoConfig.from_pretrained(tmp_path / "made").vocab_size == 48


def test_a_sketch_has_no_values(hf):
    model = sketch(LlamaConfig(**hf.sizes), "bfloat16")
    assert not any(param._is_initialized() for param in model.parameters())
    assert {str(param.dtype) for param in model.parameters()} == {"paddle.bfloat16"}


def test_memory_is_flat(hf, tmp_path):
    """Whatever the size of the model: the largest tensor, what it is made into, and one part of that."""
    sizes = {**hf.sizes, "hidden_size": 256, "intermediate_size": 2048, "num_hidden_layers": 8}
    model = LlamaForCausalLM.from_config(LlamaConfig(**sizes, fuse_attention_ffn=True))
    model.save_pretrained(tmp_path / "fused")
    convert_model(tmp_path / "fused", tmp_path / "plain", "hf")
    largest = max(param.size for param in model.parameters()) * 4
    total = sum(param.size for param in model.parameters()) * 4
    for source, form, least in (("fused", "hf", 2.6), ("plain", "native", 1.2)):  # parts: half as large
        tracemalloc.start()
        convert_model(tmp_path / source, tmp_path / f"second {form}", form)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert total > 12 * largest and peak < least * largest, (form, peak / largest)
    found = StoredWeights(tmp_path / "second hf")
    for name, param in LlamaForCausalLM.from_pretrained(tmp_path / "second native").named_parameters():
        array = found[name.replace("llama.", "model.")]
        assert np.array_equal(param.numpy(), array.T if param.transposed else array), name


def test_folders_that_are_refused(hf, tmp_path):
    source = hf.write_folder(tmp_path / "source", hf.hf_arrays(), 1, PT)
    before = hf.state_of(tmp_path)
    (tmp_path / "link").symlink_to(source)
    for target, words in (
        (source, "only read"),
        (source / "inner", "only read"),
        (tmp_path / "link" / "inner", "only read"),
        (tmp_path / "checkpoint-0", "another name"),
    ):
        with pytest.raises(UsageError, match=words):
            convert_model(source, target, "native")
    assert hf.state_of(tmp_path) == before
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UsageError, match="not an empty folder"):
        convert_model(source, tmp_path / "full", "native")
    with pytest.raises(UsageError, match="no such folder"):
        convert_model(tmp_path / "absent", tmp_path / "made", "native")
    (tmp_path / "made").mkdir()
    convert_model(source, tmp_path / "made", "native")
    assert (tmp_path / "made" / "config.json").is_file()


def test_a_model_without_a_head_is_refused(hf, tmp_path):
    arrays = hf.hf_arrays()
    del arrays["lm_head.weight"]
    hf.write_folder(tmp_path / "source", arrays, 1, PT, {"architectures": ["LlamaModel"]})
    with pytest.raises(UsageError, match="no head over the vocabulary"):
        convert_model(tmp_path / "source", tmp_path / "made", "native")


def test_stored_tables_are_named_and_left_out(hf, tmp_path):
    stray = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.zeros(2, np.float32)}
    source = hf.write_folder(tmp_path / "source", {**hf.hf_arrays(), **stray}, 1, PT)
    assert convert_model(source, tmp_path / "made", "native").left_out == list(stray)
    other = hf.write_folder(tmp_path / "other", {**hf.hf_arrays(), "strange": np.zeros(2, np.float32)}, 1, PT)
    with pytest.raises(UsageError, match="1 not part of the model"):
        convert_model(other, tmp_path / "second", "native")


def test_a_failed_write_leaves_nothing(hf, tmp_path, monkeypatch):
    source = hf.write_folder(tmp_path / "source", hf.hf_arrays(), 1, PT)
    names = sorted(os.listdir(tmp_path))

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(convert, "write_hf", full)
    with pytest.raises(
        UsageError, match=r"made: .*No space left on device. It needs [\d,]+ bytes, [\d,]+ bytes are free"
    ):
        convert_model(source, tmp_path / "made", "hf")
    assert sorted(os.listdir(tmp_path)) == names
    monkeypatch.setattr(convert, "free_bytes", lambda path: 10)
    with pytest.raises(UsageError, match="10 are free"):
        convert_model(source, tmp_path / "made", "hf")
    assert sorted(os.listdir(tmp_path)) == names
