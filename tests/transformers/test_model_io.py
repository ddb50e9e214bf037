"""Making, saving and exporting models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import paddle
import pytest

from paddlenlp.transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, LlamaForCausalLMPipe
from paddlenlp.transformers.export import parse_size
from paddlenlp.utils.errors import UsageError

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures" / "llama"


def values_of(model):
    return {name: param.numpy() for name, param in model.named_parameters()}


def assert_equal(left, right):
    left, right = values_of(left), values_of(right)
    assert sorted(left) == sorted(right)
    assert all(left[name].tobytes() == right[name].tobytes() for name in left)


@pytest.fixture()
def model(hf):
    return LlamaForCausalLM.from_config(LlamaConfig(**hf.sizes, eos_token_id=[7, 8], bos_token_id=5))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_from_config_makes_parameters_in_the_dtype(hf, dtype):
    model = LlamaForCausalLM.from_config(LlamaConfig(**hf.sizes), dtype=dtype)
    assert {str(param.dtype) for param in model.parameters()} == {f"paddle.{dtype}"}
    assert model.config.dtype == dtype
    assert paddle.get_default_dtype() == "float32"


def test_from_config_refuses_what_is_wrong(hf):
    with pytest.raises(UsageError, match="dtype='int8' is not one of"):
        LlamaForCausalLM.from_config(LlamaConfig(**hf.sizes), dtype="int8")
    config = LlamaConfig(**hf.sizes)
    config.num_attention_heads = 3
    with pytest.raises(UsageError, match="not a multiple"):
        LlamaForCausalLM.from_config(config)


def test_the_model_keeps_a_copy_of_the_configuration(hf):
    config = LlamaConfig(**hf.sizes)
    model = LlamaForCausalLMPipe.from_config(config)
    assert model.config is not config and config.architectures is None
    assert model.config.architectures == ["LlamaForCausalLM"]


def test_native_format(model, hf, tmp_path):
    model.save_pretrained(tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    weights = ["model-00001-of-00001.safetensors", "model.safetensors.index.json"]
    assert names == ["config.json", "generation_config.json", *weights]
    assert sorted(hf.read_folder(tmp_path)) == sorted(values_of(model))
    dtype, shape, content = hf.read_folder(tmp_path)["llama.layers.0.mlp.up_proj.weight"]
    assert (dtype, shape) == ("F32", (16, 24))
    assert content == values_of(model)["llama.layers.0.mlp.up_proj.weight"].tobytes()
    header = (tmp_path / weights[0]).read_bytes()[8:400].decode("utf-8", "replace")
    assert header.startswith('{"__metadata__":{"format":"np"}')
    index = json.loads((tmp_path / weights[1]).read_text())
    assert index["weight_map"]["lm_head.weight"] == weights[0]
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("save_to_hf", [False, True])
@pytest.mark.parametrize("size", ["10GB", "4KB"])
def test_what_is_saved_reads_back_equal(hf, tmp_path, dtype, save_to_hf, size):
    model = LlamaForCausalLM.from_config(LlamaConfig(**hf.sizes), dtype=dtype)
    model.save_pretrained(tmp_path, max_shard_size=size, save_to_hf=save_to_hf)
    shards = len(list(tmp_path.glob("*.safetensors")))
    assert shards == 1 if size == "10GB" else shards > 2
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert_equal(again, model)
    assert again.config == model.config


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("tied", [False, True])
def test_hugging_face_to_ours_to_hugging_face_is_bitwise(hf, tmp_path, dtype, shards, tied):
    arrays = hf.hf_arrays(dtype, tied)
    source = hf.write_folder(tmp_path / "hf", arrays, shards, {"format": "pt"}, {"tie_word_embeddings": tied})
    AutoModelForCausalLM.from_pretrained(source).save_pretrained(tmp_path / "ours")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    model.save_pretrained(tmp_path / "back", max_shard_size="4KB" if shards > 1 else "10GB", save_to_hf=True)
    assert hf.read_folder(tmp_path / "back") == hf.read_folder(source)
    assert (tmp_path / "back" / "model.safetensors").exists() == (shards == 1)


def test_a_fused_model_exports_separate_matrices(hf, tmp_path):
    source = hf.write_folder(tmp_path / "hf", hf.hf_arrays("bfloat16"), 1, {"format": "pt"})
    fused = LlamaForCausalLM.from_pretrained(source, fuse_attention_qkv=True, fuse_attention_ffn=True)
    fused.save_pretrained(tmp_path / "back", save_to_hf=True)
    assert hf.read_folder(tmp_path / "back") == hf.read_folder(source)
    assert "fuse_attention_qkv" not in json.loads((tmp_path / "back" / "config.json").read_text())


@pytest.mark.parametrize("name", sorted(path.name for path in FIXTURES.iterdir()))
def test_files_of_transformers_come_back_byte_for_byte(name, tmp_path):
    AutoModelForCausalLM.from_pretrained(FIXTURES / name).save_pretrained(tmp_path, save_to_hf=True)
    assert (tmp_path / "model.safetensors").read_bytes() == (FIXTURES / name / "model.safetensors").read_bytes()
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    source = AutoModelForCausalLM.from_pretrained(FIXTURES / name)
    assert again.config == source.config


def test_the_exported_configuration_is_transformers_own(hf, tmp_path):
    scaling = {"rope_type": "ntk", "factor": 4.0}
    model = LlamaForCausalLM.from_config(LlamaConfig(**hf.sizes, rope_scaling=scaling), dtype="bfloat16")
    model.save_pretrained(tmp_path, save_to_hf=True)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["architectures"] == ["LlamaForCausalLM"] and saved["torch_dtype"] == "bfloat16"
    # transformers has no "ntk" scaling; it is rope_theta * factor ** (head_dim / (head_dim - 2)), head_dim = 4.
    assert saved["rope_scaling"] is None and saved["rope_theta"] == pytest.approx(10000.0 * 4.0**2)
    again = LlamaForCausalLM.from_pretrained(tmp_path)
    ids = paddle.to_tensor([[1, 2, 3, 4, 5]])
    np.testing.assert_array_equal(again(ids).numpy(), model(ids).numpy())


@pytest.mark.parametrize("first", [False, True])
def test_one_form_replaces_the_other_in_a_folder(model, hf, tmp_path, first):
    other = LlamaForCausalLM.from_config(LlamaConfig(**{**hf.sizes, "num_hidden_layers": 1}))
    other.save_pretrained(tmp_path, max_shard_size="2KB", save_to_hf=first)
    model.save_pretrained(tmp_path, save_to_hf=not first)
    assert_equal(AutoModelForCausalLM.from_pretrained(tmp_path), model)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    for native_or_hf in (not first, first):
        other.save_pretrained(tmp_path, save_to_hf=True)
        model.save_pretrained(tmp_path, max_shard_size="2KB", save_to_hf=native_or_hf)
        assert not (tmp_path / "model.safetensors").exists()
        assert_equal(AutoModelForCausalLM.from_pretrained(tmp_path), model)


def test_only_the_main_process_writes(model, tmp_path):
    model.save_pretrained(tmp_path / "new", is_main_process=False)
    assert not (tmp_path / "new").exists()


def test_an_interrupted_save_leaves_the_old_model(model, hf, tmp_path, monkeypatch):
    model.save_pretrained(tmp_path, save_to_hf=True)
    other = LlamaForCausalLM.from_config(LlamaConfig(**hf.sizes))
    for param in other.parameters():
        param.set_value(param * 0 + 1)
    from paddlenlp.utils import tensor_writer

    monkeypatch.setattr(tensor_writer, "_write", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(UsageError, match="cannot write the model: disk full"):
        other.save_pretrained(tmp_path, save_to_hf=True)
    monkeypatch.undo()
    assert_equal(AutoModelForCausalLM.from_pretrained(tmp_path), model)
    assert [path for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_generation_config(model, hf, tmp_path):
    model.save_pretrained(tmp_path / "new")
    saved = json.loads((tmp_path / "new" / "generation_config.json").read_text())
    assert saved == {"_from_model_config": True, "bos_token_id": 5, "eos_token_id": [7, 8], "pad_token_id": 0}
    own = {"do_sample": True, "temperature": 0.6, "top_p": 0.9}
    (tmp_path / "new" / "generation_config.json").write_text(json.dumps(own))
    LlamaForCausalLM.from_pretrained(tmp_path / "new").save_pretrained(tmp_path / "again", save_to_hf=True)
    assert json.loads((tmp_path / "again" / "generation_config.json").read_text()) == own


def test_a_given_configuration_replaces_the_folders(model, hf, tmp_path):
    model.save_pretrained(tmp_path)
    config = LlamaConfig(**hf.sizes, rope_theta=5.0)
    for auto in (LlamaForCausalLM, AutoModelForCausalLM):
        assert auto.from_pretrained(tmp_path, config=config).config.rope_theta == 5.0
        assert auto.from_pretrained(tmp_path, rope_theta=6.0).config.rope_theta == 6.0
        with pytest.raises(TypeError, match="not both"):
            auto.from_pretrained(tmp_path, config=config, rope_theta=6.0)


def test_the_pipe_class_reads_the_same_files(model, tmp_path):
    model.save_pretrained(tmp_path)
    assert_equal(LlamaForCausalLMPipe.from_pretrained(tmp_path), model)


def test_sizes():
    assert parse_size("10GB") == 10**10 and parse_size("500mb") == 5 * 10**8 and parse_size("2GiB") == 2**31
    assert parse_size(1234) == 1234 and parse_size("1.5 KB") == 1500
    for wrong in ("ten", "10XB", "0GB", -5, "", "GB"):
        with pytest.raises(UsageError, match="max_shard_size"):
            parse_size(wrong)
