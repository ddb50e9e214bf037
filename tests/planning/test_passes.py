"""Which passes are open at once: the short way against every task of the schedule."""

from __future__ import annotations

import pytest

from paddlenlp.parallel.schedule import Task, schedule
from paddlenlp.planning.passes import TURNS, situations

SIZES = [(1, 1), (2, 1), (3, 2), (4, 1), (4, 3)]


def every(size, rank, micro_batches, chunks):
    """Kind and open passes -> the last task, and the kinds in the order in which they come."""
    last, kinds, now, later = {}, [], [0] * chunks, False
    for task in schedule(size, rank, micro_batches, chunks):
        now[task.chunk] += task.kind == "forward"
        kind = (task.kind, task.chunk, later)
        kinds += [] if kind in kinds else [kind]
        last[kind, tuple(now)] = task
        now[task.chunk] -= task.kind == "backward"
        later |= task.kind == "backward"
    return kinds, last


@pytest.mark.parametrize("size, chunks", SIZES)
@pytest.mark.parametrize("turns", [1, 2, TURNS, TURNS + 1, TURNS + 9])
def test_as_every_task_of_the_schedule(size, chunks, turns):
    for rank in range(size):
        for rest in range(size if chunks == 1 else 1):
            found = situations(size, rank, turns * size + rest, chunks)
            kinds, last = every(size, rank, turns * size + rest, chunks)
            assert list(found) == kinds
            assert {(kind, one.open): one.task for kind, some in found.items() for one in some} == last


def test_in_the_order_in_which_they_occur_last():
    for kind, some in situations(4, 0, 100, 3).items():
        assert [one.task.micro for one in some] == sorted(one.task.micro for one in some), kind


@pytest.mark.parametrize("chunks", [1, 2])
def test_what_is_leaving(chunks):
    """All that fills the pipeline, at first; then what the next rank is behind, and what the one before is."""
    size = 8
    for rank in range(size - 1):
        some = situations(size, rank, 64, chunks).items()
        first = max(one.leaving for kind, found in some if not kind.later for one in found)
        assert first == (size - rank if chunks == 1 else 2 * (size - rank - 1) + size + 1)
        even = [one.leaving for kind, found in some if kind.kind == "forward" and kind.later for one in found]
        assert max(even) <= 2 * chunks + 1


def test_a_thousand_micro_batches_are_not_gone_through(monkeypatch):
    asked = []

    def counted(*arguments):
        asked.append(arguments)
        return schedule(*arguments)

    monkeypatch.setattr("paddlenlp.planning.passes.schedule", counted)
    (some,) = [some for kind, some in situations(5, 1, 1003, 1).items() if kind.later and kind.kind == "backward"]
    assert asked == [(5, 1, TURNS * 5 + 3, 1)]
    assert some[-1].task == Task("backward", 0, 1002)
