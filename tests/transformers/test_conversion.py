"""Reading weights: names, transposes, fused matrices, dtypes, and what is said when they do not fit."""

from __future__ import annotations

import tracemalloc

import numpy as np
import paddle
import pytest

from paddlenlp.transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from paddlenlp.transformers.conversion_utils import StoredWeights, hf_name, load_weights
from paddlenlp.utils.errors import UsageError

PT, NP = {"format": "pt"}, {"format": "np"}


def native(arrays):
    """The same tensors as the native format has them: our names, matrices [in, out]."""
    return {
        name.replace("model.", "llama.", 1): array.T if array.ndim == 2 and "embed" not in name else array
        for name, array in arrays.items()
    }


def check_loaded(model, arrays):
    """Every parameter of `model` holds, bit for bit, what `arrays` (Hugging Face names) say."""
    expected = native(arrays)
    found = {name: param.numpy() for name, param in model.named_parameters()}
    assert sorted(found) == sorted(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].tobytes() == np.ascontiguousarray(array).tobytes(), name


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_hugging_face_folders_load_in_their_dtype(hf, tmp_path, dtype, shards):
    arrays = hf.hf_arrays(dtype)
    hf.write_folder(tmp_path, arrays, shards, PT, {"torch_dtype": dtype})
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert {str(param.dtype) for param in model.parameters()} == {f"paddle.{dtype}"}
    assert model.config.dtype == dtype
    check_loaded(model, arrays)


@pytest.mark.parametrize("metadata", [None, PT, {"format": "mlx"}])
@pytest.mark.parametrize("strip", [False, True])
def test_hugging_face_names_with_and_without_prefix(hf, tmp_path, metadata, strip):
    arrays = hf.hf_arrays()
    stored = {name.replace("model.", "", 1) if strip else name: array for name, array in arrays.items()}
    check_loaded(LlamaForCausalLM.from_pretrained(hf.write_folder(tmp_path, stored, 1, metadata)), arrays)


def test_a_header_that_says_the_wrong_format_is_named(hf, tmp_path):
    with pytest.raises(UsageError, match=r"that is its transpose: the header of the files says format='np'"):
        LlamaForCausalLM.from_pretrained(hf.write_folder(tmp_path, hf.hf_arrays(), 1, NP))


@pytest.mark.parametrize("metadata", [None, NP])
@pytest.mark.parametrize("shards", [1, 2])
def test_native_folders_load(hf, tmp_path, metadata, shards):
    arrays = hf.hf_arrays()
    check_loaded(LlamaForCausalLM.from_pretrained(hf.write_folder(tmp_path, native(arrays), shards, metadata)), arrays)


def test_stored_bfloat16_widens_exactly_and_float32_rounds_to_nearest_even(hf, tmp_path):
    bits = hf.hf_arrays("bfloat16")
    model = LlamaForCausalLM.from_pretrained(hf.write_folder(tmp_path / "bf16", bits, 1, PT), dtype="float32")
    check_loaded(model, {name: (array.astype(np.uint32) << 16).view(np.float32) for name, array in bits.items()})
    wide = hf.hf_arrays("float32")
    wide["model.norm.weight"][:3] = np.array([0x3F808000, 0x3F818000, 0x3F808001], np.uint32).view(np.float32)
    model = LlamaForCausalLM.from_pretrained(hf.write_folder(tmp_path / "f32", wide, 1, PT), dtype="bfloat16")
    found = dict(model.named_parameters())["llama.norm.weight"].numpy()[:3]
    assert found.tolist() == [0x3F80, 0x3F82, 0x3F81]


def test_float16_converts(hf, tmp_path):
    half = hf.hf_arrays("float16")
    model = LlamaForCausalLM.from_pretrained(hf.write_folder(tmp_path, half, 1, PT), dtype="float32")
    check_loaded(model, {name: array.astype(np.float32) for name, array in half.items()})


def test_mixed_stored_dtypes_take_the_commonest(hf, tmp_path):
    arrays = hf.hf_arrays("bfloat16")
    arrays["model.norm.weight"] = np.full(16, 1.5, np.float32)
    model = LlamaForCausalLM.from_pretrained(hf.write_folder(tmp_path, arrays, 1, PT))
    assert model.config.dtype == "bfloat16"
    assert dict(model.named_parameters())["llama.norm.weight"].numpy().tolist() == [0x3FC0] * 16


@pytest.mark.parametrize("head", [False, True])
def test_tied_heads_stored_or_not(hf, tmp_path, head):
    arrays = hf.hf_arrays(tied=True)
    stored = {**arrays, "lm_head.weight": arrays["model.embed_tokens.weight"]} if head else arrays
    model = LlamaForCausalLM.from_pretrained(hf.write_folder(tmp_path, stored, 1, PT, {"tie_word_embeddings": True}))
    check_loaded(model, arrays)
    ids = paddle.to_tensor([[1, 2, 3]])
    assert model(ids).shape == [1, 3, 48]


def test_tables_of_old_checkpoints_are_ignored(hf, tmp_path):
    arrays = hf.hf_arrays()
    stray = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": np.zeros(2, np.float32),
        "model.layers.1.attn.bias": np.zeros((1, 1, 4, 4), np.int8),
        "model.layers.1.attn.masked_bias": np.zeros((), np.float32),
    }
    check_loaded(LlamaForCausalLM.from_pretrained(hf.write_folder(tmp_path, {**arrays, **stray}, 1, PT)), arrays)


FUSED = {"fuse_attention_qkv": True, "fuse_attention_ffn": True}


@pytest.mark.parametrize("form", ["native", "hugging face"])
def test_separate_matrices_load_into_fused_ones_and_back(hf, tmp_path, form):
    arrays = hf.hf_arrays()
    stored, metadata = (arrays, PT) if form == "hugging face" else (native(arrays), NP)
    hf.write_folder(tmp_path / "separate", stored, 1, metadata)
    plain = LlamaForCausalLM.from_pretrained(tmp_path / "separate")
    fused = LlamaForCausalLM.from_pretrained(tmp_path / "separate", **FUSED)
    names = dict(fused.named_parameters())
    # Two key heads, so two groups: queries of the group, then its key, then its value.
    ours = native(arrays)
    q, k, v = (ours[f"llama.layers.0.self_attn.{part}_proj.weight"] for part in "qkv")
    expected = np.concatenate([q[:, :8], k[:, :4], v[:, :4], q[:, 8:], k[:, 4:], v[:, 4:]], 1)
    np.testing.assert_array_equal(names["llama.layers.0.self_attn.qkv_proj.weight"].numpy(), expected)
    gate, up = (ours[f"llama.layers.1.mlp.{part}_proj.weight"] for part in ("gate", "up"))
    np.testing.assert_array_equal(
        names["llama.layers.1.mlp.gate_up_fused_proj.weight"].numpy(), np.concatenate([gate, up], 1)
    )
    ids = paddle.to_tensor([[1, 2, 3, 40]])
    np.testing.assert_allclose(fused(ids).numpy(), plain(ids).numpy(), atol=1e-5)
    fused.save_pretrained(tmp_path / "fused")
    assert "llama.layers.0.self_attn.qkv_proj.weight" in StoredWeights(tmp_path / "fused")
    again = LlamaForCausalLM.from_pretrained(tmp_path / "fused", fuse_attention_qkv=False, fuse_attention_ffn=False)
    check_loaded(again, arrays)


def test_fused_biases(hf, tmp_path):
    config = LlamaConfig(**hf.sizes, attention_bias=True)
    plain = LlamaForCausalLM.from_config(config)
    for index, param in enumerate(plain.parameters()):
        param.set_value(paddle.arange(param.size, dtype="float32").reshape(param.shape) + index)
    plain.save_pretrained(tmp_path / "plain")
    fused = LlamaForCausalLM.from_pretrained(tmp_path / "plain", fuse_attention_qkv=True)
    assert "llama.layers.0.self_attn.qkv_proj.bias" in dict(fused.named_parameters())
    fused.save_pretrained(tmp_path / "fused")
    again = LlamaForCausalLM.from_pretrained(tmp_path / "fused", fuse_attention_qkv=False)
    for (name, left), (_, right) in zip(plain.named_parameters(), again.named_parameters()):
        np.testing.assert_array_equal(left.numpy(), right.numpy(), err_msg=name)


def test_everything_that_does_not_fit_is_in_one_error(hf, tmp_path):
    arrays = hf.hf_arrays()
    del arrays["model.layers.1.mlp.up_proj.weight"], arrays["model.norm.weight"]
    arrays["model.layers.2.mlp.up_proj.weight"] = np.zeros((24, 16), np.float32)
    arrays["model.layers.0.self_attn.k_proj.weight"] = np.zeros((16, 16), np.float32)
    hf.write_folder(tmp_path, arrays, 2, PT)
    with pytest.raises(UsageError) as caught:
        LlamaForCausalLM.from_pretrained(tmp_path)
    text = str(caught.value)
    assert str(tmp_path) in text and "LlamaForCausalLM" in text
    assert "2 missing:" in text and "1 not part of the model:" in text and "1 of another shape:" in text
    assert "llama.layers.1.mlp.up_proj.weight (Hugging Face name: model.layers.1.mlp.up_proj.weight)" in text
    assert "llama.norm.weight (Hugging Face name: model.norm.weight)" in text
    assert "model.layers.2.mlp.up_proj.weight [24, 16]" in text
    name = "llama.layers.0.self_attn.k_proj.weight (stored as model.layers.0.self_attn.k_proj.weight)"
    assert f"{name}: stored [16, 16], the model has [8, 16]" in text


def test_nothing_changes_when_the_weights_do_not_fit(hf, tmp_path):
    arrays = hf.hf_arrays()
    del arrays["lm_head.weight"]
    model = LlamaForCausalLM.from_config(LlamaConfig(**hf.sizes))
    before = [param.numpy().copy() for param in model.parameters()]
    with pytest.raises(UsageError, match="lm_head.weight"):
        load_weights(model, hf.write_folder(tmp_path, arrays, 1, PT))
    assert all((old == param.numpy()).all() for old, param in zip(before, model.parameters()))


def test_another_vocabulary_is_not_resized(hf, tmp_path):
    hf.write_folder(tmp_path, hf.hf_arrays(), 1, PT)
    with pytest.raises(UsageError) as caught:
        LlamaForCausalLM.from_pretrained(tmp_path, vocab_size=128)
    text = str(caught.value)
    assert text.count("the configuration asks for vocab_size=128, stored are 48") == 2
    assert "vocabularies are not resized" in text


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model_state.pdparams"])
def test_pickled_weights_are_refused_with_the_reason(hf, tmp_path, name):
    hf.write_folder(tmp_path, hf.hf_arrays(), 1, PT)
    (tmp_path / name).write_bytes(b"\x80\x02")
    LlamaForCausalLM.from_pretrained(tmp_path)  # beside safetensors they do not matter
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UsageError) as caught:
        LlamaForCausalLM.from_pretrained(tmp_path)
    text = str(caught.value)
    assert name in text and "such a file can run any program" in text and "Convert them to safetensors" in text


def test_a_folder_without_weights(hf, tmp_path):
    hf.write_folder(tmp_path, hf.hf_arrays(), 1, PT)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UsageError, match="model.safetensors"):
        LlamaForCausalLM.from_pretrained(tmp_path)


def test_quantised_weights_are_refused(hf, tmp_path):
    arrays = hf.hf_arrays()
    arrays["model.layers.0.mlp.up_proj.weight"] = np.zeros((24, 16), np.int8)
    with pytest.raises(UsageError, match="found model.layers.0.mlp.up_proj.weight .I8.. Quantised"):
        LlamaForCausalLM.from_pretrained(hf.write_folder(tmp_path, arrays, 1, PT))


@pytest.mark.parametrize("shards", [1, 2])
def test_the_source_folder_is_only_read(hf, tmp_path, shards):
    folder = hf.write_folder(tmp_path / "source", hf.hf_arrays(), shards, PT)
    for path in (*folder.iterdir(), folder):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = hf.state_of(folder)
    for _ in range(2):
        AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path / "out", save_to_hf=True)
    assert hf.state_of(folder) == before
    folder.chmod(0o755)


def test_one_tensor_at_a_time_is_in_memory(hf, tmp_path):
    sizes = {**hf.sizes, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 6, "vocab_size": 256}
    model = LlamaForCausalLM.from_config(LlamaConfig(**sizes, fuse_attention_ffn=True))
    model.save_pretrained(tmp_path, save_to_hf=True)
    largest = max(param.size for param in model.parameters()) * 4
    total = sum(param.size for param in model.parameters()) * 4
    load_weights(model, tmp_path)
    tracemalloc.start()
    load_weights(model, tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total > 12 * largest and peak < 4 * largest


def test_hf_name_of_a_class_and_of_a_model(hf):
    assert hf_name(LlamaForCausalLM, "llama.layers.3.mlp.up_proj.weight") == "model.layers.3.mlp.up_proj.weight"
    assert hf_name(LlamaForCausalLM.from_config(LlamaConfig(**hf.sizes)), "lm_head.weight") == "lm_head.weight"


def test_loading_draws_no_initial_values(hf, tmp_path, monkeypatch):
    from paddlenlp.parallel import random

    hf.write_folder(tmp_path, hf.hf_arrays(), 1, PT)
    monkeypatch.setattr(random, "fill", lambda *_: pytest.fail("initial values were drawn"))
    LlamaForCausalLM.from_pretrained(tmp_path)
