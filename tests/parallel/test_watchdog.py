"""A job that hangs ends, and every rank that can says which rank it was and what it was doing."""

from __future__ import annotations

import re
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Dict, Iterator, Tuple

import pytest
from ranks import run_ranks

WORKER = "tests/parallel/work_watchdog.py:case"
CASES: Dict[str, Tuple[int, Dict[str, Any]]] = {
    "rank 0 stops": (3, {"mode": "stops", "ranks": [0]}),
    "rank 1 stops": (3, {"mode": "stops", "ranks": [1]}),
    "blocks": (3, {"mode": "blocks", "ranks": [1]}),
    "thread": (2, {"mode": "waits_for_a_stuck_thread", "ranks": [0]}),
    "interpreter": (2, {"mode": "keeps_the_interpreter", "ranks": [1]}),
    "disagree": (2, {"mode": "disagree", "ranks": [0, 1]}),
    "alone": (1, {"mode": "blocks", "ranks": [0]}),
    "long": (2, {"mode": "works_long", "ranks": [0], "timeout": 4.0}),
    "no timeout": (2, {"mode": "blocks", "ranks": [0], "timeout": 0.0}),
}
PATIENCE = {"no timeout": 6.0}
Found = Dict[int, Tuple[str, str]]


@pytest.fixture(scope="module")
def cases() -> Iterator[Dict[str, Future]]:
    """All of them, most of the time of which is waiting."""
    with ThreadPoolExecutor(5) as pool:
        yield {
            name: pool.submit(run_ranks, world, WORKER, given, timeout=PATIENCE.get(name, 300))
            for name, (world, given) in CASES.items()
        }


@pytest.fixture
def hung(cases: Dict[str, Future]) -> Any:
    """hung(case): rank -> exit and log, of those that ended by themselves."""

    def find(name: str) -> Found:
        with pytest.raises(AssertionError) as failed:
            cases[name].result()
        parts = re.split(r"--- rank (\d) of \d: (exit -?\d+)\n", str(failed.value))
        return {int(rank): (how, log) for rank, how, log in zip(parts[1::3], parts[2::3], parts[3::3])}

    return find


@pytest.mark.parametrize("stopped", [0, 1])
def test_a_stopped_rank(hung: Any, stopped: int) -> None:
    """It stops in the very moment in which it enters a phase, so that no report tells of it."""
    found = hung(f"rank {stopped} stops")
    assert sorted(found) == [rank for rank in range(3) if rank != stopped]
    for how, log in found.values():
        assert how == "exit 7"
        assert f"error: hang: rank {stopped} in phase save of step 7: no progress for" in log
        assert re.search(f"  rank {stopped}: phase save of step 7, host .*: no sign of life", log)
        assert re.search(
            f": phase start-up of step 7, host .*: waits for rank {stopped} in barrier of group world", log
        )
        assert "in meet" in log  # the stacks
        assert log.count("error:") == 1


def test_a_rank_that_is_blocked(hung: Any) -> None:
    found = hung("blocks")
    assert {rank: how for rank, (how, _) in found.items()} == {rank: "exit 7" for rank in range(3)}
    for rank, (_, log) in found.items():
        assert "error: hang: rank 1 in phase read-data of step 7: no progress for " in log
        assert re.search(r"  rank 1: phase read-data of step 7, host .*, process \d+: at work_watchdog.py:\d+", log)
        assert "  ranks 0, 2: phase start-up of step 7" in log and "waits for rank 1 in barrier" in log
        assert ("in blocks" in log) == (rank == 1)
        assert log.count("error:") == 1


def test_a_thread_that_is_waited_for_has_stopped(hung: Any) -> None:
    """The signs of life of the thread that waits are no progress."""
    found = hung("thread")
    assert all("error: hang: rank 0 in phase save of step 7" in log for _, log in found.values())
    assert len(found) == 2


def test_a_rank_whose_threads_cannot_run(hung: Any) -> None:
    found = hung("interpreter")
    assert "error: hang: rank 1 in phase forward-backward of step 7" in found[0][1]
    assert "no sign of life" in found[0][1]


def test_ranks_that_wait_for_each_other(hung: Any) -> None:
    found = hung("disagree")
    for _, log in found.values():
        assert "hang: ranks 0, 1 in phase start-up of step 7: no progress for " in log
        assert "wait for each other" in log and "waits for rank 1 in recv 0 of group pp" in log
    assert len(found) == 2


def test_a_single_process(hung: Any) -> None:
    how, log = hung("alone")[0]
    assert how == "exit 7" and "error: hang: rank 0 in phase read-data of step 7" in log and "in blocks" in log


def test_long_work_with_progress_is_no_hang(cases: Dict[str, Future]) -> None:
    assert cases["long"].result() == [{"ended": 0}, {"ended": 1}]


def test_without_a_timeout_nothing_ends(cases: Dict[str, Future]) -> None:
    with pytest.raises(AssertionError, match="still running after 6 s"):
        cases["no timeout"].result()
