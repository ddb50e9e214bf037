"""Writes that fail, at any call, on any rank: the checkpoints before stay whole, the run goes on or says why it ends.

Short forms; `benchmarks/faults/storage.py` goes through all calls.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "parallel")]

from ranks import run_ranks  # noqa: E402
from syscalls import unavailable  # noqa: E402

SMALL_DISK = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
TOLD = re.compile(r"^(rank \d+: )?/\S+: .*cannot write .*(needs [\d,]+ bytes, )?[\d,]+ bytes are free\.", re.S)

needs_faults = pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))


def work(top: Path, function: str, prefix: List[str] = (), **payload: Any) -> Any:
    """What a function of `work_storage` returns in a process of its own."""
    command = [sys.executable, str(HERE / "work_storage.py"), str(top), function, json.dumps(payload)]
    done = subprocess.run(
        [*prefix, *command], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((top / "result.json").read_text())


CASES = {
    ("openat cache", "full", "stop"): "cannot write the index",
    ("write cache/.*npy", "device", "continue"): "cannot write the index",
    ("rename cache/.*npy", "quota", "continue"): "cannot write the index",
    ("openat out/.run_config", "read-only", "continue"): "cannot write into the output_dir",
    ("write out/metrics.jsonl", "device", "stop"): "",
    ("write out/runs/", "device", "stop"): "",
    ("mkdir out/runs", "device", "continue"): "",
    ("mkdir out/.checkpoint-1.partial", "quota", "stop"): "cannot write the checkpoint",
    ("write out/.checkpoint-1.partial.*optimizer", "device", "continue"): "",
    ("write out/.checkpoint-2.partial.*optimizer-", "full", "stop"): "cannot write the checkpoint",
    ("fsync out/.checkpoint-2.partial.*model-", "device", "continue"): "",
    ("rename out/.checkpoint-2.partial.*manifest", "full", "continue"): "cannot write the model",
    ("rename out/.checkpoint-2.partial[^/]*$", "read-only", "stop"): "cannot write the checkpoint",
    ("rename out/checkpoint-1$", "device", "stop"): "",
    ("(rmdir|unlinkat) out/.checkpoint-1.removed", "device", "stop"): "",
    ("write out/.model-", "full", "continue"): "cannot write the model",
    ("write out/.train_results", "quota", "continue"): "",
    ("rename out/.trainer_state", "full", "stop"): "cannot write this file",
}
"""First call that the pattern describes, how it fails, save_failure_policy -> what the run says when it ends by it."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Dict[str, Any]:
    """Runs of which one call fails."""
    return work(tmp_path_factory.mktemp("storage"), "chosen_calls", cases=list(CASES))


@needs_faults
def test_each_failure_is_met_as_it_should_be(runs):
    assert len(runs["runs"]) == len(CASES)
    for run, words in zip(runs["runs"], CASES.values()):
        assert run["failed"] and re.match(run["pattern"], run["failed"][0]), (run["pattern"], run)
        assert run["end"] == ("error" if words else "done"), run
        assert not words or (words in run["message"] and TOLD.match(run["message"])), run


@needs_faults
def test_no_failed_write_harms_a_checkpoint(runs):
    for run in runs["runs"]:
        assert run["damaged"] == [], run
        if "checkpoint-2.partial" in run["failed"][0]:
            assert {"checkpoint-1", "checkpoint-2"} & set(run["left"]), run  # the second if it was tried again
        if run["kind"] in ("full", "quota"):  # where files can be removed, nothing half-written is left
            assert not [name for name in run["left"] if name.startswith(".")], run


@needs_faults
def test_a_run_whose_write_failed_goes_on_to_the_same_end(runs):
    for run in runs["runs"]:
        assert run["again"]["end"] == "done", run
        assert run["digest"] == runs["whole"], run


@needs_faults
def test_a_rank_that_cannot_write_stops_all_and_harms_nothing(tmp_path):
    ranks = run_ranks(2, "tests/faults/work_storage.py:of_two_ranks", {"folder": str(tmp_path / "out"), "points": 6})
    newest = "checkpoint-2"
    for first, second in zip(*(rank[:-1] for rank in ranks)):
        failed = (first, second)[first["who"]]["failed"]
        assert bool(first["message"]) == bool(second["message"])
        assert bool(failed) or not first["message"]
        assert first["damaged"] == second["damaged"] == []
        if first["message"]:
            assert TOLD.match(first["message"]) and first["message"] == second["message"]
            assert newest in first["left"]
        else:
            newest = [name for name in first["left"] if not name.startswith(".")][-1]
    assert sum(bool(case["message"]) for case in ranks[0][:-1]) >= 8
    assert ranks[0][-1]["then"] == "" and len(ranks[0][-1]["left"]) == 1


@pytest.fixture(scope="module")
def on_small_disk(tmp_path_factory: pytest.TempPathFactory) -> Dict[str, Any]:
    """Runs on a disk of 20 MB that fills up."""
    top = tmp_path_factory.mktemp("disk")
    (top / "small").mkdir()
    mount = f"mount -t tmpfs -o size=20m none {top}/small"
    if subprocess.run([*SMALL_DISK, mount], capture_output=True).returncode:
        pytest.skip("a file system cannot be mounted here")
    return work(top, "full_disk", [*SMALL_DISK, f'{mount} && exec "$@"', "sh"], out=f"{top}/small")


def test_a_full_disk_costs_one_checkpoint_if_the_run_is_to_continue(on_small_disk):
    run = on_small_disk["room again"]
    assert run["end"] == "done" and run["damaged"] == []
    assert run["left"] == ["checkpoint-1", "checkpoint-3"]
    assert run["digest"] == on_small_disk["whole"]
    assert run["steps"] == [1, 2, 3]


def test_a_disk_that_stays_full_ends_the_run_when_the_model_cannot_be_written(on_small_disk):
    run = on_small_disk["continue"]
    assert run["end"] == "error" and "cannot write the model" in run["message"] and TOLD.match(run["message"])
    assert run["left"] == ["checkpoint-1"] and run["damaged"] == []
    assert run["again"]["end"] == "done" and run["digest"] == on_small_disk["whole"]


def test_a_full_disk_stops_the_run_if_it_is_to_stop(on_small_disk):
    run = on_small_disk["stop"]
    assert run["end"] == "error" and "checkpoint" in run["message"] and "are free" in run["message"]
    assert run["left"] == ["checkpoint-1"] and run["damaged"] == []
    assert run["again"]["end"] == "done" and run["digest"] == on_small_disk["whole"]


def test_output_that_goes_to_a_full_disk_does_not_end_a_run(tmp_path):
    code = "from paddlenlp.utils.log import forgive_output, logger; forgive_output(); " + "; ".join(
        ["print('x' * 100000, flush=True)", "logger.error('y' * 100000)", "print('z')"]
    )
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=full, cwd=HERE.parent.parent)
    assert done.returncode == 0
