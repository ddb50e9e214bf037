"""llm/run_pretrain.py on several processes, started by Paddle's launcher: they train like one, and end together."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
from launcher import on_two_hosts, until
from ranks import ROOT


@pytest.fixture(scope="module")
def one_process(run_once):
    """What one process leaves, that every layout must equal: six steps of 8 sequences."""
    return run_once(per_device_train_batch_size=8, per_device_eval_batch_size=8, do_predict=False)[1]


def lines(out):
    path = out / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def curve(out, name):
    return [line[name] for line in lines(out) if name in line]


def equal(out, reference):
    """Whether two runs logged the same losses and gradient norms, to what fp32 sums in another order can differ."""
    for name, tolerance in (("loss", 1e-5), ("eval_loss", 1e-5), ("grad_norm", 1e-4)):
        assert len(curve(out, name)) == len(curve(reference, name)) > 1
        assert curve(out, name) == pytest.approx(curve(reference, name), rel=tolerance), name
    starts_equal(out, reference)


def starts_equal(out, reference):
    """At the first step. The norm is logged with 6 decimals: two that are as good as equal may be one unit apart."""
    for name, unit in (("loss", 0.0), ("grad_norm", 1.001e-6)):
        assert curve(out, name)[0] == pytest.approx(curve(reference, name)[0], rel=1e-6, abs=unit), name


def succeeded(*jobs):
    assert [job.end() for job in jobs] == [0] * len(jobs), "\n".join(job.output[-3000:] for job in jobs)
    for job in jobs:
        job.wait_until_gone()


def said(log):
    """The lines of a rank's log about how it ended."""
    assert "FatalError" not in log and "Traceback" not in log, log
    return re.findall(r"^\[rank \d of \d on .+?\] (.+)", log, re.MULTILINE)


def test_two_data_parallel_processes_are_like_one(launch, pretrain, one_process, tmp_path):
    """They train, evaluate and save; one process goes on from what they saved."""
    out = tmp_path / "out"
    job = launch(2, per_device_train_batch_size=4, do_predict=False)
    succeeded(job)
    first, second = job.log(0), job.log(1)
    equal(out, one_process)
    assert "2 processes = dp 2; global batch = micro 4 x accumulate 1 x data 2 = 8 sequences (128 tokens)" in first
    assert sorted(path.name for path in out.glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-6"]
    assert "config.json" in {path.name for path in out.iterdir()}
    said_by_all = [text for text in re.findall(r"INFO\] - (.+)", first) if text in second]
    assert said_by_all == []  # what all do alike is logged once
    done = pretrain(output_dir=str(out), max_steps=7, per_device_train_batch_size=8, do_eval=False, do_predict=False)
    assert done.returncode == 0 and "Continuing training from global step 6" in done.stderr
    assert [line["global_step"] for line in lines(out) if "loss" in line] == list(range(1, 8))


def test_four_pipeline_and_tensor_parallel_processes_go_on_like_one(launch, one_process, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(one_process, out, ignore=shutil.ignore_patterns("checkpoint-6"))
    job = launch(
        4,
        tensor_parallel_degree=2,
        pipeline_parallel_degree=2,
        sequence_parallel=True,
        per_device_train_batch_size=2,
        per_device_eval_batch_size=8,
        gradient_accumulation_steps=4,
        pipeline_parallel_config="enable_timer disable_p2p_cache_shape",
        sample_prompt="w5 w6 w7",
        sample_max_new_tokens=2,
    )
    succeeded(job)
    equal(out, one_process)
    log = job.log(0)
    assert "Continuing training from global step 3" in log and "[Profile global_step: 4]" in log
    assert '"disable_p2p_cache_shape" changes nothing' in log
    assert {"train_loss", "eval_loss", "test_loss"} <= set(json.loads((out / "all_results.json").read_text()))


def test_two_hosts_are_like_one_process(launch, hosts, files, one_process, tmp_path):
    """Each has a copy of the data of its own, under one name, and builds the index there; the output is shared."""
    caches = []
    jobs = []
    for name, (options, prefix) in zip(("host0", "host1"), on_two_hosts(hosts, 2)):
        shutil.copytree(files / "data", tmp_path / name / "data")
        caches.append(tmp_path / name / "data/index-cache")
        jobs.append(
            launch(
                2,
                name,
                options,
                prefix,
                input_dir="data",
                share_folder=False,
                tensor_parallel_degree=2,
                per_device_train_batch_size=4,
                do_predict=False,
            )
        )
    succeeded(*jobs)
    equal(tmp_path / "out", one_process)
    assert "4 processes = dp 2 x tp 2" in jobs[0].log(0)
    names = "*.[djn][sp]*"  # all but the notes of which files have been read here
    first, second = ({path.name: path.read_bytes() for path in cache.glob(names)} for cache in caches)
    assert first == second and len(first) == 10  # a description, a record and three arrays, for two splits


def test_the_launch_script_starts_eight_processes(files, one_process, tmp_path):
    """llm/run_trainer_tp4pp2.sh, as it is but for the sizes."""
    variables = {
        "DEVICE": "cpu",
        "PRECISION": "fp32",
        "PYTHON": sys.executable,
        "MODEL": str(files / "model"),
        "TOKENIZER": str(files / "tokenizer"),
        "INPUT_DIR": str(files / "data"),
        "OUTPUT_DIR": str(tmp_path / "out"),
    }
    flags = "--max_steps 2 --max_seq_length 16 --gradient_accumulation_steps 8 --split 8,1,1 --logging_steps 1"
    flags += " --continue_training false --report_to none --eval_iters 1 --autotuner_benchmark false"
    done = subprocess.run(
        ["bash", str(ROOT / "llm/run_trainer_tp4pp2.sh"), *flags.split()],
        cwd=tmp_path,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "8 processes = dp 1 x pp 2 x tp 4" in (tmp_path / "out_log/workerlog.0").read_text()
    starts_equal(tmp_path / "out", one_process)
    assert len(curve(tmp_path / "out", "loss")) == 2 and (tmp_path / "out/model.safetensors.index.json").is_file()


def test_a_mistake_in_the_arguments_is_told_once(launch):
    job = launch(2, tensor_parallel_degree=3)
    assert job.end() == 2
    job.wait_until_gone()
    assert job.log(0).count("2 is not a multiple of 3") == 1 and len(said(job.log(0))) == 1
    assert said(job.log(1)) == ["error: as rank 0 says"]


def test_what_is_wrong_on_one_host_ends_all(launch, hosts, files, tmp_path):
    """The data of the second is incomplete, which the first can't see."""
    jobs = []
    for name, (options, prefix) in zip(("host0", "host1"), on_two_hosts(hosts, 1)):
        shutil.copytree(files / "data", tmp_path / name / "data")
        os.truncate(tmp_path / name / "data/corpus.bin", 1000 if name == "host1" else 5984)
        jobs.append(launch(1, name, options, prefix, input_dir="data"))
    assert all([job.end() for job in jobs])
    for job in jobs:
        job.wait_until_gone()
    ((first,), (second,)) = (said(job.log(0)) for job in jobs)
    assert second.startswith("error: ") and "corpus.bin" in second and "missing" in second
    assert first.startswith("error: rank 1 has failed (") and first.endswith("; this rank ends too")


@pytest.fixture
def training(launch, tmp_path):
    """A job of two ranks that has trained for two steps, and would for very long."""
    job = launch(2, max_steps=10000, save_steps=10000, do_eval=False, do_predict=False)
    until(lambda: len(curve(tmp_path / "out", "loss")) > 1 or job.launcher.poll() is not None)
    ranks = job.processes()
    assert sorted(ranks.values()) == [0, 1], job.output
    return job, {rank: process for process, rank in ranks.items()}


def test_a_rank_that_is_killed_ends_all(training):
    job, ranks = training
    os.kill(ranks[1], signal.SIGKILL)
    assert job.end() != 0
    job.wait_until_gone()
    (line,) = said(job.log(0))
    assert line.startswith("error: rank 1 has ended while rank 0 waits for it") and line.endswith(
        "; this rank ends too"
    )
    assert said(job.log(1)) == []


def test_ctrl_c_at_the_launcher_saves_and_ends_all(training, tmp_path):
    job, _ = training
    job.launcher.send_signal(signal.SIGINT)
    assert job.end() == signal.SIGINT  # the launcher's own code
    job.wait_until_gone()
    saved_and_stopped(job, tmp_path, "SIGTERM")  # which is what the launcher sends


def test_processes_that_load_data_do_not_end_before_the_step(launch, tmp_path):
    """The launcher signals whole process groups; the step under way still needs its data."""
    options = {"dataloader_num_workers": 1, "gradient_accumulation_steps": 4}
    job = launch(2, max_steps=10000, save_steps=10000, do_eval=False, do_predict=False, **options)
    until(lambda: len(curve(tmp_path / "out", "loss")) > 1 or job.launcher.poll() is not None)
    job.launcher.send_signal(signal.SIGTERM)
    assert job.end() == signal.SIGTERM
    job.wait_until_gone()
    saved_and_stopped(job, tmp_path, "SIGTERM")


def test_a_signal_to_one_rank_stops_all_at_one_step(training, launch, tmp_path):
    job, ranks = training
    os.kill(ranks[1], signal.SIGUSR1)
    assert job.end() != 0
    job.wait_until_gone()
    step = saved_and_stopped(job, tmp_path, "SIGUSR1")
    again = launch(2, max_steps=step + 2, save_steps=10000, do_eval=False, do_predict=False)
    assert again.end() == 0
    assert [line["global_step"] for line in lines(tmp_path / "out") if "loss" in line][-2:] == [step + 1, step + 2]


def saved_and_stopped(job, tmp_path, name):
    """All ranks say that they stopped at the step of the one checkpoint; that step."""
    (folder,) = (tmp_path / "out").glob("checkpoint-*")
    step = int(folder.name.rpartition("-")[2])
    for rank in range(2):
        assert said(job.log(rank)) == [
            f"stopped on {name} at step {step} of 10000. The same command goes on from {folder}."
        ]
    return step
