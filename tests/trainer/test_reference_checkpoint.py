"""Unified checkpoints in PaddleNLP's own format, written by hand (`fixtures/unified_checkpoint.py`), are resumed."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest

from paddlenlp.utils.errors import UsageError

BF16 = {"bf16": True, "fp16_opt_level": "O2", "amp_master_grad": True}


@pytest.fixture(scope="module")
def reference():
    path = Path(__file__).resolve().parent.parent / "fixtures" / "unified_checkpoint.py"
    spec = importlib.util.spec_from_file_location("unified_checkpoint", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Written:
    """A checkpoint of random numbers for the tiny model, and what is in it."""

    def __init__(self, reference, tiny, tmp_path, bf16=False, tp=1, pp=1, sharding=1, **options):
        stream = np.random.RandomState(7)
        params = dict(tiny.model(tiny.args()).named_parameters())
        wide = {name: stream.randn(*param.shape).astype(np.float32) for name, param in params.items()}
        self.weights, self.masters = wide, {}
        if bf16:
            self.masters = wide
            self.weights = {name: reference.bf16_bits(value) for name, value in wide.items()}
        self.states = {
            f"{name}/{key}": stream.rand(*([1] if "pow" in key else param.shape)).astype(np.float32)
            for name, param in params.items()
            for key in reference.STATE_KEYS
        }
        stages = {name: int("layers.1" in name or "lm_head" in name or ".norm" in name) for name in params}
        self.folder, self.marker = tmp_path / "reference" / "checkpoint-2", tmp_path / "executed"
        layout = reference.Layout(tp, pp, sharding, stages if pp > 1 else {})
        reference.write(
            self.folder, self.weights, self.states, self.masters, layout, marker=str(self.marker), **options
        )


def assert_loaded(trainer, written):
    for piece in trainer.optimizer.pieces:
        assert piece.weight.numpy().reshape(-1).tolist() == written.masters_or_weights[piece.name].reshape(-1).tolist()
        for key, value in trainer.optimizer.states(piece).items():
            assert value.numpy().tolist() == written.states[f"{piece.name}/{key}"].reshape(-1).tolist(), key
    for name, param in trainer.model.named_parameters():
        assert param.numpy().tobytes() == written.weights[name].tobytes(), name


def restored(tiny, written, **changes):
    """A trainer that has read the checkpoint, and trained no step since."""
    written.masters_or_weights = written.masters or written.weights
    trainer = tiny.trainer(resume_from_checkpoint=str(written.folder), max_steps=2, save_strategy="no", **changes)
    trainer.train()
    return trainer


LAYOUTS = {"one": {}, "tp2pp2": {"tp": 2, "pp": 2}, "tp2pp2 sharding2": {"tp": 2, "pp": 2, "sharding": 2}}
WORDS = ["", "skip_save_model_weight", "ignore_merge_optimizer"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize("bf16", [False, True])
def test_weights_masters_and_moments_are_read_bit_for_bit(reference, tiny, tmp_path, layout, words, bf16):
    written = Written(reference, tiny, tmp_path, bf16, **LAYOUTS[layout], words=words.split())
    assert_loaded(restored(tiny, written, **(BF16 if bf16 else {})), written)
    assert not written.marker.exists()


def test_bfloat16_by_its_own_name(reference, tiny, tmp_path):
    written = Written(reference, tiny, tmp_path, bf16=True, bf16_word="BF16")
    assert_loaded(restored(tiny, written, **BF16), written)


def test_removed_masters_are_made_from_the_weights(reference, tiny, tmp_path):
    written = Written(reference, tiny, tmp_path, bf16=True, words=["remove_master_weight"])
    with pytest.raises(UsageError, match="holds no float32 master weights"):
        restored(tiny, written, **BF16)
    wide = {name: (bits.astype(np.uint32) << 16).view(np.float32) for name, bits in written.weights.items()}
    written.masters = wide
    assert_loaded(restored(tiny, written, unified_checkpoint_config="master_weight_compatible", **BF16), written)


def test_the_run_goes_on_at_its_step_and_its_data(reference, tiny, tmp_path, log_lines, tokens):
    written = Written(reference, tiny, tmp_path, consumed=8)
    data = tokens(64)
    trainer = tiny.trainer(resume_from_checkpoint=str(written.folder), max_steps=4, data=data)
    rates = []
    straight = tiny.trainer(output_dir=str(tmp_path / "straight"), max_steps=4)
    straight.train()
    trainer.train()
    assert trainer.state.global_step == 4
    assert data.read[:4] == [8, 9, 10, 11]
    for run in (trainer, straight):
        rates.append([r["learning_rate"] for r in run.state.log_history if r.get("global_step", 0) > 2 and "loss" in r])
    assert rates[0] == rates[1]
    said = "\n".join(log_lines())
    assert "has no manifest.json, so whether it is whole cannot be verified" in said
    assert "pickled files (rng_state, scheduler, scaler, training_args) are not read" in said
    assert not written.marker.exists()


def test_it_is_never_taken_unless_it_is_named(reference, tiny, tmp_path):
    written = Written(reference, tiny, tmp_path)
    tiny.folder.mkdir()
    written.folder.rename(tiny.folder / "checkpoint-2")
    trainer = tiny.trainer(max_steps=1, save_strategy="no")
    trainer.train()
    assert trainer.state.global_step == 1
    assert trainer.state.consumed_samples == 2


def test_an_own_checkpoint_without_its_manifest_is_refused(tiny):
    tiny.trainer(max_steps=2).train()
    (tiny.folder / "checkpoint-2" / "manifest.json").unlink()
    with pytest.raises(UsageError, match="manifest.json is missing"):
        tiny.trainer(resume_from_checkpoint=str(tiny.folder / "checkpoint-2")).train()


def test_quantised_moments_are_refused_by_name(reference, tiny, tmp_path):
    written = Written(reference, tiny, tmp_path)
    index = written.folder / "optimizer.safetensors.index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "ckpt_quant_stage": "O1"}))
    with pytest.raises(UsageError, match=r"quantised \(ckpt_quant_stage O1\)"):
        restored(tiny, written)


def test_a_missing_file_of_one_rank_is_told(reference, tiny, tmp_path):
    written = Written(reference, tiny, tmp_path, tp=2, pp=2, words=["ignore_merge_optimizer"])
    (written.folder / "optimizer.tp00_pp01.safetensors").unlink()
    with pytest.raises(UsageError, match="of some ranks are missing"):
        restored(tiny, written)


@pytest.mark.parametrize("files", [["../optimizer.safetensors"], "optimizer", [3]])
def test_an_index_that_names_files_elsewhere_is_refused(reference, tiny, tmp_path, files):
    written = Written(reference, tiny, tmp_path, words=["ignore_merge_optimizer"])
    (written.folder / "optimizer.safetensors.index.json").write_text(json.dumps({"files": files}))
    with pytest.raises(UsageError, match="not an index of optimizer files"):
        restored(tiny, written)


def a_header_with(path, parts):
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"]["parts"] = json.dumps(parts)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])


@pytest.mark.parametrize(
    "parts",
    [
        {"x": ["x", [1], [1], "float32", None, None, False, 0, 0, 1]},
        {"x": ["x", [1], [1], "float32", ["equal_share", {"count": 1, "size": 0}], None, False, 0, 0, 1]},
        {"x": []},
        ["x"],
        3,
    ],
    ids=["another tensor", "not a layout", "empty", "a list", "a number"],
)
def test_a_header_that_does_not_say_what_its_parts_are_is_refused(reference, tiny, tmp_path, parts):
    written = Written(reference, tiny, tmp_path, words=["ignore_merge_optimizer"])
    a_header_with(written.folder / "optimizer.safetensors", parts)
    with pytest.raises(UsageError, match="its header is not that of a rank's own part"):
        restored(tiny, written)


@pytest.mark.parametrize("read_retries, goes_on", [(1, False), (2, True)])
def test_read_retries_say_how_often_a_failing_read_is_tried_again(tiny, monkeypatch, read_retries, goes_on):
    from paddlenlp.utils import reading
    from paddlenlp.utils import retries as module

    tiny.trainer(max_steps=2).train()
    left, preadv = [errno.EIO, errno.EIO], os.preadv

    def failing(*arguments):
        if left:
            raise OSError(left.pop(), "Input/output error")
        return preadv(*arguments)

    monkeypatch.setattr(reading.os, "preadv", failing)
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(module.retries, "limit", 0)
    trainer = tiny.trainer(max_steps=3, read_retries=read_retries)
    if goes_on:
        trainer.train()
        assert trainer.state.global_step == 3
    else:
        with pytest.raises(UsageError, match="cannot be read: Input/output error"):
            trainer.train()
