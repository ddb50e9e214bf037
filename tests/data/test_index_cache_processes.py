"""The index cache under several processes: the short form of `benchmarks/data/cache_faults.py`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks" / "data"))

from cache_faults import LIMIT, builds, digest, finish, release, start, together  # noqa: E402


@pytest.fixture(scope="module")
def undisturbed():
    """The digest of the index that one process builds."""
    return together(1)["digest"]


def test_of_many_at_once_one_builds(undisturbed):
    assert together(6) == {"builds": 1, "failed": {}, "digest": undisturbed}


@pytest.mark.parametrize("host", ["", "elsewhere "], ids=["same host", "another host"])
def test_another_takes_over_from_a_builder_that_is_killed(undisturbed, tmp_path, host):
    """The builder would take an hour, and is killed once it has begun."""
    processes = {"0": start(tmp_path, "0", True, "", 360.0)}
    processes.update({name: start(tmp_path, name, False, host, 0.01) for name in "123"})
    release(tmp_path, processes)
    end = time.monotonic() + LIMIT
    while not builds(tmp_path):
        assert time.monotonic() < end, "nobody builds"
        time.sleep(0.01)
    builder = processes.pop("0")
    builder.kill()
    builder.wait()
    assert finish(tmp_path, processes) == {}
    (first, _), (second, _) = builds(tmp_path)
    assert first == "0" and second in processes
    assert digest(tmp_path) == undisturbed
    assert not list((tmp_path / "cache").glob("*lock*"))
