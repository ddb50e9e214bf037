"""Every family against Hugging Face transformers, whose results tests/fixtures/make_families.py stored."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import paddle
import pytest

from paddlenlp import transformers
from paddlenlp.parallel.random import skip_initialisation
from paddlenlp.transformers import AutoConfig, AutoModelForCausalLM, AutoModelForCausalLMPipe
from paddlenlp.transformers.conversion_utils import hf_name

sys.path.append(str(Path(__file__).resolve().parent))
from families import CASES, ROWS

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
VARIANTS = {
    row.folder: sorted(v for other in ROWS if other.folder == row.folder for v in other.variants) for row in ROWS
}
FUSED = {
    f"{row.folder}/{variant}": {f"fuse_attention_{part}": True for part in row.fuses}
    for row in ROWS
    for variant in row.variants
    if row.fuses
}


def load(case, **changes):
    config = AutoConfig.from_pretrained(FIXTURES / case, **changes)
    model = AutoModelForCausalLM.from_pretrained(FIXTURES / case, config=config)
    model.eval()
    with np.load(FIXTURES / case / "expected.npz", allow_pickle=False) as stored:
        return model, {name: stored[name] for name in stored.files}


def relative(found, expected):
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def gradients(model):
    """Gradients under the names and in the shapes of Hugging Face."""
    found = {}
    for name, param in model.named_parameters():
        if param.stop_gradient:
            continue
        fusion, names, grads = getattr(param, "fusion", None), [name], [param.grad.numpy()]
        if fusion is not None and fusion.part_names(name) and fusion.name not in model.hf_fused:
            names, grads = fusion.part_names(name), fusion.separate(grads[0])
        found.update({hf_name(model, name): grad.T if param.transposed else grad for name, grad in zip(names, grads)})
    return found


def train(model, expected):
    model.train()
    ids, labels = paddle.to_tensor(expected["input_ids"]), paddle.to_tensor(expected["labels"])
    return float(model.train_batch([{"input_ids": ids, "labels": labels}]))


@pytest.mark.parametrize("family", VARIANTS)
def test_every_variant_is_there(family):
    assert sorted(path.name for path in (FIXTURES / family).iterdir()) == VARIANTS[family]


@pytest.mark.parametrize("case", CASES)
def test_logits_loss_and_gradients(case):
    model, expected = load(case)
    ids, labels = paddle.to_tensor(expected["input_ids"]), paddle.to_tensor(expected["labels"])
    assert relative(model(ids).numpy(), expected["logits"]) < 1e-5
    assert float(model(ids, labels)) == pytest.approx(float(expected["loss"]), rel=1e-5)
    check_training(model, expected)


def check_training(model, expected):
    """The loss in training, the norms of all gradients, and some gradients whole."""
    in_training = float(expected.get("train_loss", expected["loss"]))
    assert train(model, expected) == pytest.approx(in_training, rel=1e-5)
    found = gradients(model)
    norms = {name[len("norm:") :]: float(value) for name, value in expected.items() if name.startswith("norm:")}
    assert sorted(found) == sorted(norms)
    largest = max(norms.values())
    for name, norm in norms.items():
        # The sum over keys of the gradients of a key's bias is zero but for rounding.
        least = 1e-6 * largest
        assert float(np.linalg.norm(found[name].astype(np.float64))) == pytest.approx(norm, rel=1e-4, abs=least), name
    whole = [name[len("grad:") :] for name in expected if name.startswith("grad:")]
    assert whole
    for name in whole:
        gap = np.abs(found[name] - expected[f"grad:{name}"]).max()
        assert gap < 1e-4 * np.abs(expected[f"grad:{name}"]).max() + 1e-6 * largest, name


@pytest.mark.parametrize("case", CASES)
def test_padding_and_positions(case):
    model, expected = load(case)
    ids, mask = paddle.to_tensor(expected["input_ids"]), paddle.to_tensor(expected["mask"])
    if "masked_logits" in expected:
        kept = expected["masked_logits"].shape[0]
        assert relative(model(ids, attention_mask=mask)[-1, :kept].numpy(), expected["masked_logits"]) < 1e-5
    if "shifted_logits" in expected:
        positions = paddle.to_tensor(np.tile(np.arange(9) * 2 + 3, (len(ids), 1)))
        assert relative(model(ids[:, :9], position_ids=positions).numpy(), expected["shifted_logits"]) < 1e-5


@pytest.mark.parametrize("case", CASES)
def test_greedy_continuation(case):
    model, expected = load(case)
    prompt = expected["input_ids"][:, :6]
    found = model.generate(prompt, max_new_tokens=expected["greedy"].shape[1] - 6)
    np.testing.assert_array_equal(found.numpy(), expected["greedy"])


@pytest.mark.parametrize("part", ["qkv", "ffn"])
@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_the_options_fuse_what_the_table_says(row, part):
    def names(**changes):
        config = getattr(transformers, f"{row.prefix}Config")(**row.config, **changes)
        with skip_initialisation():
            model = getattr(transformers, f"{row.prefix}ForCausalLM").from_config(config)
        return {name for name, _ in model.named_parameters()}

    assert (names() != names(**{f"fuse_attention_{part}": True})) == (part in row.fuses)


@pytest.mark.parametrize("case", FUSED)
def test_fused_matrices_compute_the_same(hf, tmp_path, case):
    model, expected = load(case, **FUSED[case])
    model.save_pretrained(tmp_path / "hf", save_to_hf=True)
    assert hf.read_folder(tmp_path / "hf") == hf.read_folder(FIXTURES / case)
    model.save_pretrained(tmp_path / "fused")
    separate = AutoModelForCausalLM.from_pretrained(tmp_path / "fused", **dict.fromkeys(FUSED[case], False))
    separate.save_pretrained(tmp_path / "separate", save_to_hf=True)
    assert hf.read_folder(tmp_path / "separate") == hf.read_folder(FIXTURES / case)
    assert relative(model(paddle.to_tensor(expected["input_ids"])).numpy(), expected["logits"]) < 1e-5
    check_training(model, expected)


@pytest.mark.parametrize("case", CASES)
def test_what_is_read_is_written_again(hf, tmp_path, case):
    model, _ = load(case)
    model.save_pretrained(tmp_path, save_to_hf=True)
    assert hf.read_folder(tmp_path) == hf.read_folder(FIXTURES / case)
    assert AutoConfig.from_pretrained(tmp_path) == AutoConfig.from_pretrained(FIXTURES / case)


@pytest.mark.parametrize("case", CASES)
def test_the_native_format_is_read_again(tmp_path, case):
    model, expected = load(case)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLMPipe.from_pretrained(tmp_path)
    again.eval()
    ids = paddle.to_tensor(expected["input_ids"])
    np.testing.assert_array_equal(again(ids).numpy(), model(ids).numpy())
