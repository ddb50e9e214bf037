"""LLaMA against Hugging Face transformers, whose results tests/fixtures/make_llama.py stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest

from paddlenlp.transformers.conversion_utils import hf_name
from paddlenlp.transformers.llama.configuration import LlamaConfig
from paddlenlp.transformers.llama.modeling import LlamaForCausalLM

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures" / "llama"
VARIANTS = sorted(path.name for path in FIXTURES.iterdir())


def load(variant, **changes):
    config = LlamaConfig.from_pretrained(FIXTURES / variant, **changes)
    model = LlamaForCausalLM.from_pretrained(FIXTURES / variant, config=config)
    with np.load(FIXTURES / variant / "expected.npz", allow_pickle=False) as stored:
        return model, {name: stored[name] for name in stored.files}


def relative(found, expected):
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def gradients(model):
    """Gradients under the names and in the shapes of Hugging Face."""
    found = {}
    for name, param in model.named_parameters():
        grad = param.grad.numpy().T if param.transposed else param.grad.numpy()
        found[hf_name(model, name)] = grad
    return found


def test_every_variant_is_there():
    assert VARIANTS == ["biased", "dynamic", "grouped", "linear", "llama3", "plain", "tied"]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_logits_loss_and_gradients(variant, training):
    model, expected = load(variant)
    model.train() if training else model.eval()
    ids, labels = paddle.to_tensor(expected["input_ids"]), paddle.to_tensor(expected["labels"])
    assert relative(model(ids).numpy(), expected["logits"]) < 1e-5
    assert float(model(ids, labels)) == pytest.approx(float(expected["loss"]), rel=1e-5)
    loss = model.train_batch([{"input_ids": ids, "labels": labels}])
    assert float(loss) == pytest.approx(float(expected["loss"]), rel=1e-5)
    found = gradients(model)
    norms = {name[len("norm:") :]: float(value) for name, value in expected.items() if name.startswith("norm:")}
    assert sorted(found) == sorted(norms)
    for name, norm in norms.items():
        assert float(np.linalg.norm(found[name].astype(np.float64))) == pytest.approx(norm, rel=1e-4, abs=1e-7), name
    whole = [name for name in expected if name.startswith("grad:")]
    assert len(whole) == 3
    for name in whole:
        assert relative(found[name[len("grad:") :]], expected[name]) < 1e-4, name


@pytest.mark.parametrize("variant", VARIANTS)
def test_padding_and_positions(variant):
    model, expected = load(variant)
    ids, mask = paddle.to_tensor(expected["input_ids"]), paddle.to_tensor(expected["mask"])
    kept = expected["masked_logits"].shape[0]
    assert relative(model(ids, attention_mask=mask)[1, :kept].numpy(), expected["masked_logits"]) < 1e-5
    positions = paddle.to_tensor(np.tile(np.arange(9) * 2 + 3, (2, 1)))
    assert relative(model(ids[:, :9], position_ids=positions).numpy(), expected["shifted_logits"]) < 1e-5


@pytest.mark.parametrize("variant", VARIANTS)
def test_greedy_continuation(variant):
    model, expected = load(variant)
    found = model.generate(expected["input_ids"][:, :6], max_new_tokens=8)
    np.testing.assert_array_equal(found.numpy(), expected["greedy"])


@pytest.mark.parametrize("variant", ["plain", "grouped", "biased"])
def test_fused_matrices_compute_the_same(variant):
    model, expected = load(variant, fuse_attention_qkv=True, fuse_attention_ffn=True)
    names = [name for name, _ in model.named_parameters()]
    assert any("qkv_proj" in name for name in names) and any("gate_up_fused_proj" in name for name in names)
    assert not any("k_proj" in name or "up_proj" in name for name in names)
    ids, labels = paddle.to_tensor(expected["input_ids"]), paddle.to_tensor(expected["labels"])
    assert relative(model(ids).numpy(), expected["logits"]) < 1e-5
    model.train_batch([{"input_ids": ids, "labels": labels}])
    layer = model.llama.layers[0].self_attn.qkv_proj.weight
    part = layer.fusion.separate(layer.grad.numpy())[1].T
    assert relative(part, expected["grad:model.layers.0.self_attn.k_proj.weight"]) < 1e-4
