"""Who sees the same folder: on two hosts with separate and shared data, whatever share_folder says."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "parallel")]

from launcher import Launch, hosts, on_two_hosts, started  # noqa: E402
from work_shared_storage import CASES  # noqa: E402

from paddlenlp.data import shared_storage  # noqa: E402
from paddlenlp.data.shared_storage import builds_index  # noqa: E402

__all__ = ["hosts", "started"]

WORKER = HERE / "work_shared_storage.py"


@pytest.fixture
def findings(tmp_path, make_pair, started, hosts):  # noqa: F811
    """Of each rank of two hosts with two ranks each: what it found in each case."""
    for name in CASES:
        for host in ("host0", "host1"):
            (tmp_path / name / host).mkdir(parents=True)
            make_pair(folder=tmp_path / name / host / "data")
    for host, (options, prefix) in enumerate(on_two_hosts(hosts, 2)):
        started.append(Launch(tmp_path / f"job{host}", [str(WORKER), str(tmp_path)], options, prefix))
    for job in started:
        assert job.end() == 0, job.output + "".join(job.log(rank) for rank in range(2))
    return [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(4)]


def test_two_hosts(findings):
    """A wrong share_folder is corrected and warned about; the index is the same everywhere."""
    for name, (kind, flag) in CASES.items():
        ranks = [found[name] for found in findings]
        builders = [True, False, False, False] if kind == "shared" else [True, False, True, False]
        assert [found["builder"] for found in ranks] == builders
        assert len({found["order"] for found in ranks}) == 1
        assert all(len(found["files"]) == 6 for found in ranks)
        warnings = [found["warnings"] for found in ranks]
        if (kind == "shared") is flag:
            assert warnings == [[], [], [], []]
        elif flag:
            assert [len(said) for said in warnings] == [1, 0, 1, 0]
            assert (
                "share_folder is true, but data/index-cache of rank 0 is not the folder that rank 2" in warnings[0][0]
            )
        else:
            assert [len(said) for said in warnings] == [1, 0, 0, 0]
            assert "share_folder is false, but rank 2 sees the same data/index-cache as rank 0" in warnings[0][0]


def test_one_machine_needs_no_markers(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    for rank, builds in (("0", True), ("1", False)):
        monkeypatch.setenv("PADDLE_RANK_IN_NODE", rank)
        assert builds_index([str(folder)], True, lambda value: [value or "first.machine", None][:2]) is builds
    assert not folder.exists()


@pytest.mark.parametrize("share_folder, builds", [(True, False), (False, True)])
def test_where_no_marker_can_be_written_it_is_as_the_user_says(tmp_path, monkeypatch, share_folder, builds):
    monkeypatch.setenv("PADDLE_RANK_IN_NODE", "0")
    monkeypatch.setenv("PADDLE_TRAINER_ID", "1")
    monkeypatch.setattr(shared_storage, "_mark", lambda *_: False)
    assert builds_index([str(tmp_path)], share_folder, lambda value: ["a.machine", value]) is builds
    assert not os.listdir(tmp_path)
