"""llm/tools/doctor.py as it is called: alone, with a file of a run, and by the launcher."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from launcher import Launch
from ranks import ROOT

TOOL = str(ROOT / "llm/tools/doctor.py")


def doctor(folder, *words):
    command = [sys.executable, TOOL, "--trial_mb", "1", *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_without_a_file(tmp_path):
    done = doctor(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split()[:2] for line in done.stdout.splitlines() if line[:1].isalpha()]
    assert {"Python", "Paddle", "memory", "/dev/shm", "output_dir"} <= {words[1] for words in lines}
    assert "fit to train" in done.stdout.splitlines()[-1] and not list(tmp_path.iterdir())


def test_with_the_file_of_a_run(tmp_path, materials):
    config = tmp_path / "config.json"
    told = {"output_dir": str(tmp_path / "out"), "input_dir": str(materials / "data"), "no_cuda": True}
    config.write_text(json.dumps({**told, "tensor_parallel_degree": 8}))
    done = doctor(tmp_path, config, "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 0 and found["fit"] and found["fail"] == 0
    by_name = {finding["check"]: finding for finding in found["findings"]}
    assert str(tmp_path / "out") in by_name["output_dir"]["found"] and by_name["input_dir"]["state"] == "ok"
    done = doctor(tmp_path, config, "--json", "--input_dir", tmp_path / "none")
    found = json.loads(done.stdout)
    assert done.returncode == 1 and not found["fit"] and found["fail"] == 1


@pytest.mark.parametrize("text", [None, "{", "[]"])
def test_a_file_that_is_none(tmp_path, text):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    done = doctor(tmp_path, "config.json")
    assert done.returncode == 2 and done.stderr.startswith("error: config.json"), done.stderr


def test_by_the_launcher(tmp_path, started):
    options = ["--nproc_per_node", "2"]
    job = Launch(tmp_path / "job", [TOOL, "--trial_mb", "1", "--device", "cpu"], options)
    started.append(job)
    assert job.end() == 0, job.log(0)
    assert "2 have met, on 1 host" in job.log(0) and "all-reduce       right in float32" in job.log(0)
    assert "fit to train" in job.log(0).splitlines()[-1] and "ok" not in job.log(1).split()


def test_a_job_that_is_not_fit(tmp_path, started):
    program = [TOOL, "--trial_mb", "1", "--device", "cpu", "--input_dir", str(tmp_path / "none")]
    job = Launch(tmp_path / "job", program, ["--nproc_per_node", "2"])
    started.append(job)
    assert job.end() != 0
    assert "not fit to train" in job.log(0) and "all-reduce       right" in job.log(0)
