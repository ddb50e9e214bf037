"""llm/run_pretrain.py as a user starts it: a whole run, what it leaves, and running it again."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any, Dict, List

import pytest
from materials import write_data
from safetensors.numpy import load_file

from paddlenlp.data import MMapIndexedDatasetBuilder, make_dataset


def lines(out: Path) -> List[Dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def losses(out: Path) -> List[float]:
    return [line["loss"] for line in lines(out) if "loss" in line]


def weights(folder: Path) -> Dict[str, bytes]:
    return {name: array.tobytes() for path in folder.glob("model-*") for name, array in load_file(path).items()}


@pytest.fixture(scope="module")
def whole(run_once):
    """A run of six steps to its end: the process, and what it left."""
    return run_once(sample_prompt="w5 w6 w7", sample_max_new_tokens=3, report_to=["visualdl"])


def test_a_run_leaves_everything_it_promises(whole):
    done, out = whole
    names = ["config.json", "model.safetensors.index.json", "tokenizer.json", "run_config.json", "trainer_state.json"]
    names += ["train_results.json", "eval_results.json", "test_results.json", "all_results.json", "metrics.jsonl"]
    assert [name for name in names if not (out / name).is_file()] == []
    assert sorted(path.name for path in out.glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-6"]
    assert (out / "checkpoint-6/run_config.json").read_text() == (out / "run_config.json").read_text()
    assert list((out / "runs").rglob("vdlrecords*"))
    assert losses(out)[-1] < losses(out)[0]
    assert set(json.loads((out / "all_results.json").read_text())) >= {"train_loss", "eval_loss", "test_loss"}
    assert "Sample before training: 'w5 w6 w7" in done.stderr and "Sample after training: 'w5 w6 w7" in done.stderr
    assert "Final pre-training config: LlamaConfig {" in done.stdout
    assert re.search(r"^ips: [\d.]+ tokens/s$", done.stdout, re.M)
    assert f"Everything is in {out}" in done.stderr.splitlines()[-1]


def test_the_reference_s_pipeline_finds_the_loss(whole):
    """The reference's own tests read the loss of a step from the log with this pipeline."""
    done, out = whole
    command = "grep -a 'global_step: 5,' | awk -F ',' '{print $2}' | awk '{print $6}'"
    found = subprocess.run(["bash", "-c", command], input=done.stderr, capture_output=True, text=True)
    assert float(found.stdout) == losses(out)[4]


def test_lazy_files_train_like_memory_mapped_ones(pretrain, whole, files, tmp_path):
    done, out = whole
    stored = make_dataset(str(files / "data/corpus"))
    with MMapIndexedDatasetBuilder(str(files / "lazy"), stored.dtype, "lazy") as builder:
        for document in range(len(stored)):
            builder.add_item(stored[document])
            builder.end_document()
        builder.finalize()
    assert pretrain(input_dir=str(files / "lazy"), data_impl="lazy").returncode == 0
    assert losses(tmp_path / "out") == losses(out)


def test_running_again_says_it_is_done_and_trains_no_more(pretrain, whole, tmp_path):
    out = shutil.copytree(whole[1], tmp_path / "out")
    before = weights(out / "checkpoint-6")
    done = pretrain()
    assert done.returncode == 0 and "Training is complete" in done.stderr
    assert weights(out / "checkpoint-6") == before and len(losses(out)) == 6


def test_a_resumed_run_equals_an_uninterrupted_one_bitwise(pretrain, whole, tmp_path):
    parts = shutil.copytree(whole[1], tmp_path / "out", ignore=shutil.ignore_patterns("checkpoint-6"))
    done = pretrain()
    assert done.returncode == 0 and "checkpoint-3" in done.stderr
    assert losses(parts) == losses(whole[1])
    for stem in ("model", "optimizer"):
        name = f"checkpoint-6/{stem}-00001-of-00001.safetensors"
        assert (parts / name).read_bytes() == (whole[1] / name).read_bytes()


def test_continuing_from_weights_starts_where_they_ended(pretrain, whole, tmp_path):
    done = pretrain(model_name_or_path=str(whole[1]), continue_training=True, max_steps=1)
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "out")[0] < losses(whole[1])[0] - 0.05


@pytest.mark.parametrize("changes", [{"bf16": True, "fp16_opt_level": "O2"}, {"fp16": True, "fp16_opt_level": "O1"}])
def test_low_precision_runs_train(pretrain, tmp_path, changes):
    done = pretrain(**changes)
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "out")[-1] < losses(tmp_path / "out")[0]


def test_a_tokenizer_larger_than_a_fresh_model_grows_it(pretrain, files, tmp_path):
    config = json.loads((files / "model/config.json").read_text())
    (files / "model/config.json").write_text(json.dumps({**config, "vocab_size": 100}))
    done = pretrain(max_steps=1)
    assert done.returncode == 0 and "Reset vocab size to 256 (from 100)" in done.stderr
    assert json.loads((tmp_path / "out/config.json").read_text())["vocab_size"] == 256


def test_a_model_of_contexts_and_texts(pretrain, files, tmp_path):
    """Masks and positions follow from the ids: the first token 9 of a sample ends a context."""
    shape = {"model_type": "chatglm", "vocab_size": 256, "hidden_size": 32, "inner_hidden_size": 64, "num_layers": 2}
    tokens = {"bos_token_id": 9, "mask_token_id": 1, "gmask_token_id": 2, "num_attention_heads": 4}
    (files / "model/config.json").write_text(json.dumps({**shape, **tokens}))
    done = pretrain(sample_prompt="w5 w6 w9 w10", sample_max_new_tokens=3)
    assert done.returncode == 0, done.stderr
    assert "Final pre-training config: ChatGLMConfig {" in done.stdout
    assert losses(tmp_path / "out")[-1] < losses(tmp_path / "out")[0]
    assert "Sample after training: 'w5 w6 w9 w10" in done.stderr


def test_options_of_the_model_reach_it(pretrain, tmp_path):
    done = pretrain(max_steps=1, num_hidden_layers=1, fuse_attention_qkv=True, fuse_attention_ffn=True)
    assert done.returncode == 0, done.stderr
    names = set(weights(tmp_path / "out"))
    assert not any("layers.1" in name for name in names)
    assert any("qkv_proj" in name for name in names) and any("gate_up_fused_proj" in name for name in names)


def test_flags_for_fused_operations_are_answered(pretrain):
    done = pretrain(max_steps=1, use_flash_attention=True, use_fast_layer_norm=True)
    assert done.returncode == 0
    lines = [line for line in done.stderr.splitlines() if "Fused operations" in line or "fused ones" in line]
    assert any("attention" in line for line in lines) and any("layer_norm" in line for line in lines)


def test_cpu_tuning_can_be_turned_off(pretrain):
    on, off = pretrain(max_steps=1), pretrain(max_steps=2, cpu_tuning=False)
    assert "CPU tuning" in on.stderr and "CPU tuning" not in off.stderr


def test_bounds_of_documents_act(pretrain, files, tmp_path):
    write_data(tmp_path / "ended", [2])
    shape = json.loads((files / "model/config.json").read_text())
    (files / "model/config.json").write_text(json.dumps({**shape, "initializer_range": 0.3}))  # attention is uneven
    names, found = ("reset_position_ids", "reset_attention_mask"), []
    for number, asked in enumerate([(), names[:1], names[1:]]):
        out = tmp_path / f"out{number}"
        options = dict.fromkeys(asked, True)
        done = pretrain(input_dir=str(tmp_path / "ended"), output_dir=str(out), max_steps=2, do_eval=False, **options)
        assert done.returncode == 0, done.stderr
        found.append(losses(out)[0])
    assert min(abs(a - b) for a, b in combinations(found, 2)) > 1e-3, found
