"""Groups of processes over TCP: every operation on every type, in groups of two, three and four of four ranks."""

from __future__ import annotations

from typing import Any, Dict, List

import pytest
from ranks import run_ranks

WORLD = 4
GROUPS = [[0, 1], [2, 3], [0, 3], [1, 2, 3], [0, 1, 2, 3]]
SIZE = 100003


@pytest.fixture(scope="module")
def results() -> List[Dict[str, Any]]:
    """By rank, all of it in one launch."""
    payload = {
        "every_operation": {"groups": GROUPS, "direct": 1 << 15},
        "bits_and_bytes": {"size": SIZE},
        "generations": None,
        "mistakes": None,
    }
    return run_ranks(WORLD, "tests/parallel/work_group.py:together", payload)


def test_every_operation(results: List[Dict[str, Any]]) -> None:
    for rank, result in enumerate(results):
        found = result["every_operation"]
        assert set(found) == {str(group) for group in GROUPS if rank in group}
        assert not any(found.values()), f"rank {rank}: {found}"


def test_all_ranks_and_both_algorithms_give_the_same_bits(results: List[Dict[str, Any]]) -> None:
    assert len({digest for result in results for digest in result["bits_and_bytes"]["digests"]}) == 1


def test_large_sums_send_no_more_than_a_ring(results: List[Dict[str, Any]]) -> None:
    ring = 2 * (WORLD - 1) / WORLD * SIZE * 4
    for result in results:
        direct, *shares = result["bits_and_bytes"]["sent"]
        assert direct >= (WORLD - 1) * SIZE * 4
        assert all(ring - WORLD * 8 <= sent < ring + 2000 for sent in shares)


def test_groups_made_again_do_not_read_the_old_ones_messages(results: List[Dict[str, Any]]) -> None:
    assert [result["generations"] for result in results] == [[], [1, 2], [1, 2], [1, 2]]


def test_mistakes_are_told(results: List[Dict[str, Any]]) -> None:
    for rank in range(2):
        found = results[rank]["mistakes"]
        assert "3 rows can't be dealt out evenly to 2 ranks" in found["rows"]
        assert "[1, 1] of 3 rows" in found["counts"]
        assert "'prod', expected one of sum, max, min" in found["op"]
        assert "complex64" in found["type"]
        assert "all_reduce (sum) of float32" in found["different operations"]
        assert "all_gather of float32" in found["different operations"]
        assert "expects 4 bytes" in found["different shapes"] or "expects 8 bytes" in found["different shapes"]
