"""What a rank knows of its own sends from what comes in, against ranks that run in any order."""

from __future__ import annotations

import random
from collections import Counter
from types import SimpleNamespace

import pytest

from paddlenlp.parallel import pipeline
from paddlenlp.parallel.group import Work
from paddlenlp.parallel.pipeline import Mail
from paddlenlp.parallel.schedule import schedule
from paddlenlp.parallel.taken import starts_from_other, taken

SHAPES = [(1, 3, 1), (2, 5, 1), (4, 9, 1), (2, 4, 3), (3, 6, 2), (4, 16, 2)]


def other(kind):
    return "backward" if kind == "forward" else "forward"


def in_any_order(size, micro_batches, chunks, draw):
    """Run all ranks; yields a rank, its task whose input is there, and how many inputs of each kind each has taken."""
    waiting = {rank: list(schedule(size, rank, micro_batches, chunks)) for rank in range(size)}
    finished, has_taken = set(), Counter()
    while any(waiting.values()):
        rank = draw.choice([rank for rank in waiting if waiting[rank]])
        task = waiting[rank][0]
        part = task.chunk * size + rank
        if starts_from_other(task, size, rank, chunks):
            if (task.kind, part + (-1 if task.kind == "forward" else 1), task.micro) not in finished:
                continue
            has_taken[rank, task.kind] += 1
        yield rank, task, has_taken
        finished.add((task.kind, part, task.micro))
        waiting[rank].pop(0)


@pytest.mark.parametrize("size, micro_batches, chunks", SHAPES)
def test_what_is_said_to_be_taken_is(size, micro_batches, chunks):
    known = [taken(size, rank, micro_batches, chunks) for rank in range(size)]
    tightest = Counter()
    for seed in range(20):
        for rank, task, has_taken in in_any_order(size, micro_batches, chunks, random.Random(seed)):
            assert (task in known[rank]) == starts_from_other(task, size, rank, chunks)
            if task in known[rank]:
                neighbour = (rank + (-1 if task.kind == "forward" else 1)) % size
                more = has_taken[neighbour, other(task.kind)] - known[rank][task]
                assert more >= 0
                tightest[rank, task] = min(more, tightest.get((rank, task), more))
    assert all(more <= size * chunks for more in tightest.values())


@pytest.mark.parametrize("size, rank", [(4, 0), (4, 1), (8, 3)])
def test_a_pipeline_that_runs_evenly_keeps_one_or_two(size, rank):
    known, sent = taken(size, rank, 100, 1), 0
    for task in schedule(size, rank, 100):
        sent += task.kind == "forward"
        if task.kind == "backward" and task.micro < 100 - size:
            assert sent - known[task] <= 2


class Wire:
    """A group that keeps what is sent until it is waited for."""

    rank = 0

    def __init__(self):
        self.kept, self.count = [], 0

    def send(self, x, to):
        number, self.count = self.count, self.count + 1
        self.kept.append(number)
        return Work(lambda: self.kept.remove(number))


def test_what_was_taken_is_let_go_and_nothing_else(monkeypatch):
    import paddle

    wire = Wire()
    mesh = SimpleNamespace(links={"forward_out": wire}, tp=SimpleNamespace(size=1, rank=0), sequence_parallel=False)
    monkeypatch.setattr(pipeline, "topology", lambda: SimpleNamespace(mesh=mesh, **vars(mesh)))
    mail = Mail()
    for _ in range(2):  # a second step counts anew
        del wire.kept[:]
        wire.count = 0
        for _ in range(4):
            mail.send("forward", paddle.zeros([2, 2]))
        mail.let_go("forward", 0)
        assert wire.kept == [0, 1, 2, 3]
        mail.let_go("forward", 3)
        mail.let_go("forward", 2)
        assert wire.kept == [3]
        mail.finish()
        assert wire.kept == []
