"""Runs that are killed and started again end like one left alone: the short form of benchmarks/faults/kill.py."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks/faults"))

import jobs  # noqa: E402
import kill  # noqa: E402


def test_the_whole_job_is_killed_inside_a_save_at_any_time_and_at_its_start(tmp_path):
    found = kill.campaign(tmp_path, kills=3)
    assert found["troubles"] == []
    assert found["moments"] == {"save": 1, "any": 1, "start": 1}
    assert found["equal"] == 3 and found["steps_twice_most"] <= kill.SAVE_STEPS


def test_one_rank_of_four_is_killed(tmp_path):
    found = kill.campaign(tmp_path, kills=1, ranks=4)
    assert found["troubles"] == [] and found["equal"] == 1


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two runs of a few steps that differ in one weight decay."""
    place = jobs.Place(tmp_path_factory.mktemp("pair"), max_steps=4, save_steps=2)
    place.run("one").succeed()
    place.run("other", weight_decay=0.5).succeed()
    return place


def test_what_differs_is_found(place):
    one, other = (jobs.outcome(place.out(name)) for name in ("one", "other"))
    assert jobs.differences(one, one) == []
    assert {"tensors", "exported", "losses"} <= set(jobs.differences(other, one))
    assert one["steps"] == [1, 2, 3, 4] and set(one["tensors"]) == {"model", "optimizer"}


def test_work_that_was_lost_and_files_that_were_left_are_found(place):
    known = kill.Reference(jobs.outcome(place.out("one")), 0.0, 0.0, 0.0)
    run = place.run("one")
    run.succeed()
    kill.check(run, known, {"twice": 5}, allowed=5)
    with pytest.raises(jobs.Trouble, match="6 steps were computed twice, 5 are allowed"):
        kill.check(run, known, {"twice": 6}, allowed=5)
    (run.out / ".checkpoint-2.partial-host-1").mkdir()
    with pytest.raises(jobs.Trouble, match="left in the folder"):
        kill.check(run, known, {"twice": 0}, allowed=5)
