"""The division of a model and the order of passes, as data."""

from __future__ import annotations

from collections import deque
from itertools import product

import pytest

from paddlenlp.parallel.schedule import Task, schedule, share
from paddlenlp.utils.errors import UsageError


class Simulation:
    """Ranks that carry out their schedules, wait for nothing but what they receive, and find it in order of sending.

    A forward pass of a chunk takes 1, a backward pass 2. With `capacity`, a sender also waits while so many messages
    lie on its link.
    """

    def __init__(self, size, micro_batches, chunks=1, capacity=10**6):
        self.size, self.chunks, self.capacity = size, chunks, capacity
        self.links = {(way, rank): deque() for way in ("forward", "backward") for rank in range(size)}
        self.clock, self.live, self.peak = [0] * size, [set() for _ in range(size)], [0] * size
        self.done = [[] for _ in range(size)]
        waiting = [deque(schedule(size, rank, micro_batches, chunks)) for rank in range(size)]
        while any(waiting):
            moved = [self._turn(rank, waiting[rank]) for rank in range(size)]
            assert any(moved), f"deadlock: {[list(tasks)[:1] for tasks in waiting]}"

    def _turn(self, rank, tasks):
        if not tasks or not self._ready(rank, tasks[0]):
            return False
        self._run(rank, tasks.popleft())
        return True

    def _part(self, rank, task):
        return task.chunk * self.size + rank

    def _ends(self, rank, task):
        """Whether nothing comes to this task, and whether nothing goes out."""
        first, last = self._part(rank, task) == 0, self._part(rank, task) == self.size * self.chunks - 1
        return (first, last) if task.kind == "forward" else (last, first)

    def _ready(self, rank, task):
        from_nobody, to_nobody = self._ends(rank, task)
        step = 1 if task.kind == "forward" else -1
        full = not to_nobody and len(self.links[task.kind, (rank + step) % self.size]) >= self.capacity
        return (from_nobody or self.links[task.kind, rank]) and not full

    def _run(self, rank, task):
        from_nobody, to_nobody = self._ends(rank, task)
        start, step = self.clock[rank], 1 if task.kind == "forward" else -1
        if not from_nobody:
            part, micro, sent = self.links[task.kind, rank].popleft()
            assert (part, micro) == (self._part(rank, task) - step, task.micro), "another message comes first"
            start = max(start, sent)
        self.clock[rank] = start + (1 if task.kind == "forward" else 2)
        if not to_nobody:
            message = (self._part(rank, task), task.micro, self.clock[rank])
            self.links[task.kind, (rank + step) % self.size].append(message)
        place = (task.chunk, task.micro)
        (self.live[rank].add if task.kind == "forward" else self.live[rank].remove)(place)
        self.peak[rank] = max(self.peak[rank], len(self.live[rank]))
        self.done[rank].append(task)


CASES = [(size, micro, 1) for size, micro in product((1, 2, 3, 4, 8), (1, 2, 3, 5, 8, 13))]
CASES += [(size, size * turns, chunks) for size, turns, chunks in product((2, 3, 4), (1, 2, 5), (2, 3))]


@pytest.mark.parametrize("size, micro_batches, chunks", CASES)
def test_every_pass_once_and_no_deadlock(size, micro_batches, chunks):
    ran = Simulation(size, micro_batches, chunks)
    every = {Task(kind, c, m) for kind in ("forward", "backward") for c in range(chunks) for m in range(micro_batches)}
    for tasks, live in zip(ran.done, ran.live):
        assert len(tasks) == len(every) and set(tasks) == every and not live
        for chunk in range(chunks):  # gradients of a parameter are summed in the order of the micro batches
            assert [m for kind, c, m in tasks if kind == "backward" and c == chunk] == list(range(micro_batches))


@pytest.mark.parametrize("size, micro_batches, chunks", CASES)
def test_no_neighbour_is_further_behind_than_what_is_kept_for_it(size, micro_batches, chunks):
    Simulation(size, micro_batches, chunks, capacity=2 * size * chunks)


@pytest.mark.parametrize("size, micro_batches", [(1, 4), (2, 1), (4, 1), (4, 3), (4, 4), (4, 9), (8, 16)])
def test_one_forward_one_backward(size, micro_batches):
    ran = Simulation(size, micro_batches)
    assert ran.peak == [min(micro_batches, size - rank) for rank in range(size)]
    assert max(ran.clock) == 3 * (micro_batches + size - 1)
    assert [task.kind for task in ran.done[-1]] == ["forward", "backward"] * micro_batches


@pytest.mark.parametrize("size, turns, chunks", [(2, 1, 2), (2, 4, 3), (4, 2, 2), (4, 3, 4)])
def test_interleaving_divides_the_idle_time(size, turns, chunks):
    ran = Simulation(size, size * turns, chunks)
    assert max(ran.clock) == 3 * (size * turns * chunks + size - 1)
    expected = [min(size * turns * chunks, 2 * (size - rank - 1) + (chunks - 1) * size + 1) for rank in range(size)]
    assert ran.peak == expected


def test_a_single_rank_takes_one_micro_batch_after_the_other():
    assert schedule(1, 0, 2) == [(kind, 0, m) for m in (0, 1) for kind in ("forward", "backward")]


def test_interleaving_needs_whole_groups_of_micro_batches():
    with pytest.raises(UsageError, match=r"groups of pipeline_parallel_degree=4; a step has 6.*multiple of 4"):
        schedule(4, 0, 6, chunks=2)


@pytest.mark.parametrize(
    "costs, parts, expected",
    [
        ([1] * 8, 4, [2, 2, 2, 2]),
        ([1] * 5, 2, [3, 2]),
        ([1] * 7, 4, [2, 2, 2, 1]),
        ([1] * 31 + [1.65], 4, [8, 8, 8, 8]),
        ([1] * 31 + [3.6], 4, [9, 9, 8, 6]),
        ([1] * 17 + [11.4], 4, [6, 6, 5, 1]),
        ([1] * 4 + [1.3], 2, [3, 2]),
        ([4, 1, 1, 1, 1], 2, [1, 4]),
        ([1], 1, [1]),
        ([2, 3, 4], 3, [1, 1, 1]),
    ],
)
def test_share_balances_costs(costs, parts, expected):
    runs = share(costs, parts)
    assert [len(run) for run in runs] == expected
    assert [unit for run in runs for unit in run] == list(range(len(costs)))


def test_share_finds_the_least_greatest_cost():
    costs = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3]
    for parts in range(1, len(costs) + 1):
        best = min(
            max(sum(costs[a:b]) for a, b in zip((0, *cuts), (*cuts, len(costs)))) for cuts in cuts_of(len(costs), parts)
        )
        assert max(sum(costs[unit] for unit in run) for run in share(costs, parts)) == best


def cuts_of(count, parts):
    from itertools import combinations

    return combinations(range(1, count), parts - 1)


def test_too_few_layers():
    with pytest.raises(UsageError, match=r"has 3 decoder layers.*= 4 parts.*at most 3"):
        share([1, 1, 1], 4)
