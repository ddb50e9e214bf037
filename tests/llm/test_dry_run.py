"""run_pretrain.py --dry_run: what would stop a run is found in the same words, and nothing is left behind."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import SCRIPT
from materials import SHAPE

PARTS = ("arguments", "tokenizer", "data files", "model", "checkpoints", "plan", "index")
LARGE = {
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
}
"""What makes Llama-3-70B of a LLaMA."""


def message(text):
    """The error of a run, without the place of the line."""
    return text[text.index("error: ") + len("error: ") :].strip()


@pytest.fixture
def dry(argument_file):
    """dry(*flags, **changes): the dry run of a run with these arguments, as a process of its own."""

    def start(*flags, environment=None, **changes):
        config = argument_file(**changes)
        env = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
        command = [sys.executable, SCRIPT, str(config), "--dry_run", *map(str, flags)]
        return subprocess.run(command, cwd=config.parent, env=env, capture_output=True, text=True)

    return start


def tree(folder):
    return {path.relative_to(folder) for path in folder.rglob("*")}


def test_a_run_in_order_leaves_nothing_but_the_index(dry, pretrain, files, tmp_path):
    done = dry()
    assert done.returncode == 0, done.stderr
    for part in PARTS:
        assert re.search(rf"^ok    {part} ", done.stdout, re.M), done.stdout
    assert "34,976 parameters" in done.stdout and "1 process" in done.stdout
    index = files / "data/index-cache"
    new = tree(tmp_path) - {Path("config.json")} - {Path("files"), *(Path("files") / path for path in tree(files))}
    assert not new and index.is_dir()
    built = {path: path.stat().st_mtime_ns for path in index.iterdir()}
    assert pretrain(max_steps=6).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in index.iterdir()} == built  # the run takes it as it is


def truncate(files):
    os.truncate(files / "data/corpus.bin", 1000)


def few_rows(files):
    shape = {**SHAPE, "vocab_size": 128}
    (files / "model/config.json").write_text(json.dumps(shape))


def nothing(files):
    pass


@pytest.mark.parametrize(
    ("plant", "changes", "words"),
    [
        (truncate, {}, "corpus.bin"),
        (nothing, {"split": "1000,1,1"}, "split"),
        (nothing, {"learning_rte": 1}, "learning_rate"),
        (nothing, {"resume_from_checkpoint": "model"}, "is not a whole checkpoint"),
        (nothing, {"reset_attention_mask": True}, "--append_eos"),
    ],
)
def test_an_error_of_the_run_is_found_in_its_own_words(dry, pretrain, files, plant, changes, words):
    plant(files)
    changes = {**changes, **{name: str(files / value) for name, value in changes.items() if name.startswith("resume")}}
    rehearsed, run = dry(**changes), pretrain(**changes)
    assert (rehearsed.returncode, run.returncode) == (2, 2), rehearsed.stderr + run.stderr
    assert words in message(run.stderr) and message(rehearsed.stderr) == message(run.stderr)
    assert "Traceback" not in rehearsed.stderr


def test_ids_beyond_the_vocabulary(dry, pretrain, retokenize, files):
    few_rows(files)
    retokenize(100)
    rehearsed, run = dry(), pretrain()
    assert rehearsed.returncode == 2 and "holds token id 220" in message(run.stderr)
    assert message(rehearsed.stderr) == message(run.stderr)


def test_weights_of_another_shape(dry, pretrain, files, tmp_path):
    assert pretrain(max_steps=1, do_eval=False, do_predict=False).returncode == 0
    (tmp_path / "out").rename(tmp_path / "first")
    wide = {**json.loads((tmp_path / "first/config.json").read_text()), "intermediate_size": 96}
    (tmp_path / "first/config.json").write_text(json.dumps(wide))
    changes = {"model_name_or_path": str(tmp_path / "first"), "continue_training": True}
    rehearsed, run = dry(**changes), pretrain(**changes)
    assert rehearsed.returncode == 2 and "up_proj" in message(run.stderr)
    assert message(rehearsed.stderr) == message(run.stderr)


def test_a_layout_that_does_not_fit_the_model_needs_no_launcher(dry, pretrain):
    ranks = ",".join(f"127.0.0.1:{port}" for port in range(1, 9))
    environment = {"PADDLE_TRAINERS_NUM": "8", "PADDLE_TRAINER_ID": "0", "PADDLE_TRAINER_ENDPOINTS": ranks}
    run = pretrain(tensor_parallel_degree=8, environment=environment)
    rehearsed = dry(tensor_parallel_degree=8)
    assert rehearsed.returncode == 2 and "num_attention_heads 4" in rehearsed.stderr
    assert message(rehearsed.stderr) in run.stderr


def test_a_model_of_70_billion_parameters_on_a_laptop(dry, files):
    (files / "model/config.json").write_text(json.dumps({**SHAPE, **LARGE}))
    flags = {"bf16": True, "fp16_opt_level": "O2", "max_seq_length": 32, "save_strategy": "no", "device": "gpu"}
    layout = {"tensor_parallel_degree": 8, "pipeline_parallel_degree": 4, "sharding": "stage1"}
    flags = {**flags, **layout, "sharding_parallel_degree": 2, "gradient_accumulation_steps": 8}
    done = dry("--plan_gpu", "h100-80g", **flags)
    assert done.returncode == 0, done.stderr
    assert "70,553,706,496 parameters" in done.stdout and "64 processes" in done.stdout
    assert "fits into the 79.6 GiB of NVIDIA H100" in done.stdout
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 1500 << 10  # of this child or an earlier one
    done = dry(
        "--plan_gpu",
        "a100-40g",
        "--dry_run_processes",
        8,
        **{**flags, "pipeline_parallel_degree": 1, "sharding_parallel_degree": -1},
    )
    assert done.returncode == 2 and "than NVIDIA A100-SXM4-40GB has (39.4)" in message(done.stderr)


def test_where_no_device_is_known_the_plan_gives_no_verdict(dry):
    done = dry(device="gpu", environment={"PATH": ""})
    assert done.returncode == 0, done.stderr
    assert re.search(r"^warn  plan .*\n +-> .*--plan_gpu", done.stdout, re.M), done.stdout


def test_a_tiny_step_of_each_role(dry, files):
    shape = {**SHAPE, "hidden_size": 128, "num_attention_heads": 16, "num_hidden_layers": 8, "intermediate_size": 256}
    (files / "model/config.json").write_text(json.dumps({**shape, "num_key_value_heads": 8}))
    layout = {"tensor_parallel_degree": 8, "pipeline_parallel_degree": 2, "sequence_parallel": True}
    done = dry("--dry_run_step", gradient_accumulation_steps=2, **layout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(
        r"^ok    tiny step +a tiny llama over 4 processes = dp 1 x pp 2 x tp 2 .*loss 5\.", done.stdout, re.M
    )


def test_a_step_that_fails_says_why(tmp_path):
    from paddlenlp.trainer import rehearsal_step
    from paddlenlp.utils.errors import UsageError

    script = tmp_path / "script.py"
    script.write_text("import sys\nprint('error: rank 1 has ended', 'error: no such thing', sep='\\n')\nsys.exit(2)\n")
    with pytest.raises(UsageError, match="The tiny step failed:\nno such thing"):
        rehearsal_step._carry_out(tmp_path, 1, script)


def test_only_the_dry_run_takes_its_flags(pretrain):
    done = pretrain(dry_run_step=True)
    assert done.returncode == 2 and "dry_run_step belongs to dry_run" in done.stderr
