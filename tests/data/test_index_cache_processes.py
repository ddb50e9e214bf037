"""The index cache under several processes: the short form of `benchmarks/data/cache_faults.py`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks" / "data"))

from cache_faults import killed, together  # noqa: E402


@pytest.fixture(scope="module")
def undisturbed():
    """The digest of the index that one process builds."""
    return together(1)["digest"]


def test_of_many_at_once_one_builds(undisturbed):
    assert together(6) == {"builds": 1, "failed": {}, "digest": undisturbed}


@pytest.mark.parametrize("share, elsewhere", [(0.3, False), (0.9, False), (0.6, True)])
def test_another_takes_over_from_a_builder_that_is_killed(undisturbed, share, elsewhere):
    found = killed(share, elsewhere, work=3.0)
    assert found["failed"] == {} and found["digest"] == undisturbed
    assert found["builder_had_begun"] and found["builders_after"] == 1 and found["left"] == []
