"""A run that records bad steps, and the tool that runs their batches again."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
STEPS = {"save_steps": 20, "loss_spike_bound": 1.0005, "bad_step_policy": "skip", "bad_step_limit": 99}


def replay(command, folder, *flags):
    words = [sys.executable, *shlex.split(command)[1:], *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def run(run_once):
    """A run with spikes so small that there are some, and its records."""
    _, folder = run_once(max_steps=30, learning_rate=1e-6, min_learning_rate=1e-6, do_eval=False, **STEPS)
    return folder, [json.loads(line) for line in (folder / "bad_steps.jsonl").read_text().splitlines()]


def test_the_recorded_command_gives_the_same_loss_with_catch_up(run):
    folder, records = run
    record = records[1]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    done = replay(record["command"], folder.parent, "--catch_up")
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    count = sum(map(len, record["sample_ids"]))
    assert f"Step {record['step']}: {count} samples" in done.stdout
    assert "checkpoint-20 (all steps before it trained)" in done.stdout
    shown = f"{record['loss']:.9g}"
    assert any(line.split() == ["loss", shown, shown] for line in done.stdout.splitlines()), done.stdout
    assert f"Recorded: {record['reason']}. Now: {record['reason']}." in done.stdout


def test_flags_come_on_top_and_the_batch_runs_on_other_weights(run):
    folder, records = run
    step = records[1]["step"]
    flags = ["--step", str(step), "--checkpoint", "initial", "--loss_spike_bound", "99"]
    done = replay(f"python {ROOT}/llm/tools/replay_step.py {folder}/bad_steps.jsonl", folder.parent, *flags)
    assert done.returncode == 0, done.stderr
    assert f"the weights with which the run began ({step - 1} steps before it)" in done.stdout
    assert "Now: nothing is wrong." in done.stdout and "first bad tensor   none" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--step", "3"], "has no record of step 3. It has: "),
        (["--seed", "7"], "The data is not what the bad step read: under the recorded numbers there are other samples"),
        (["--checkpoint", "nowhere"], "nowhere is not a whole checkpoint"),
        (["--learning_rte", "1"], 'did you mean "--learning_rate"'),
    ],
)
def test_what_does_not_fit_is_one_message(run, words, said):
    folder, _ = run
    done = replay(f"python {ROOT}/llm/tools/replay_step.py {folder}/bad_steps.jsonl", folder.parent, *words)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_a_checkpoint_that_is_gone(run, tmp_path):
    folder, records = run
    copy = Path(shutil.copytree(folder, tmp_path / "copy", ignore=shutil.ignore_patterns("checkpoint-*")))
    record = {**records[-1], "checkpoint": str(copy / "checkpoint-20")}
    (copy / "bad_steps.jsonl").write_text(json.dumps(record) + "\n")
    done = replay(f"python {ROOT}/llm/tools/replay_step.py {copy}/bad_steps.jsonl", folder.parent)
    assert done.returncode == 2 and "is no longer there, nor is an older one" in done.stderr
    (copy / "run_config.json").write_text("[]")
    done = replay(f"python {ROOT}/llm/tools/replay_step.py {copy}/bad_steps.jsonl", folder.parent)
    assert done.returncode == 2 and "the arguments of the run can't be read" in done.stderr
