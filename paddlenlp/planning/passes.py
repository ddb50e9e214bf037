"""Which passes of a rank are open at once, between their forward and their backward pass, by chunk; and what of its
sends has not surely left."""

from __future__ import annotations

from functools import lru_cache
from typing import Dict, List, Literal, NamedTuple, Tuple

from paddlenlp.parallel.schedule import Task, schedule
from paddlenlp.parallel.taken import starts_from_other, taken

Direction = Literal["forward", "backward"]

Counts = Tuple[int, ...]
"""Open passes of each chunk."""

TURNS = 6
"""Turns of `size` micro batches in which a schedule fills, runs evenly and empties: it fills in less than two, empties
in less than two, and is the same in every turn between them."""


class Kind(NamedTuple):
    """Passes that are compared with each other: of one direction and chunk, before the first backward pass or later."""

    kind: str
    chunk: int
    later: bool


class Situation(NamedTuple):
    """A pass at work.

    Attributes:
        task: itself.
        open: the passes that are open then, itself included.
        leaving: hidden states and gradients that `pipeline.Mail` keeps then, at most; of a forward pass with its own.
    """

    task: Task
    open: Counts
    leaving: int


@lru_cache(maxsize=4096)
def situations(size: int, rank: int, micro_batches: int, chunks: int) -> Dict[Kind, List[Situation]]:
    """All that occur in a step, each once, as its last pass; in the order of the schedule.

    Args:
        size, rank, micro_batches, chunks: as for `parallel.schedule`, which says what is raised.
    """
    spared = max(0, micro_batches // size - TURNS) * size  # in turns that are like others
    tasks = schedule(size, rank, micro_batches - spared, chunks)
    found: Dict[Kind, Dict[Counts, Situation]] = {}
    now, later = [0] * chunks, False
    for number, (task, leaving) in enumerate(zip(tasks, _leaving(tasks, size, rank, micro_batches - spared, chunks))):
        now[task.chunk] += task.kind == "forward"
        seen, counts = found.setdefault(Kind(task.kind, task.chunk, later), {}), tuple(now)
        before = seen.pop(counts, None)  # so that the last one comes last
        most = leaving if before is None else max(leaving, before.leaving)
        named = task._replace(micro=task.micro + spared) if 2 * number >= len(tasks) else task
        seen[counts] = Situation(named, counts, most)
        now[task.chunk] -= task.kind == "backward"
        later = later or task.kind == "backward"
    return {kind: list(seen.values()) for kind, seen in found.items()}


def _leaving(tasks: List[Task], size: int, rank: int, micro_batches: int, chunks: int) -> List[int]:
    """What is on its way at each task: as `pipeline.PipelineStep` sends and lets go."""
    known, found = taken(size, rank, micro_batches, chunks), []
    sent, gone = {"forward": 0, "backward": 0}, {"forward": 0, "backward": 0}
    for task in tasks:
        other: Direction = "backward" if task.kind == "forward" else "forward"
        gone[other] = max(gone[other], known.get(task, 0))
        # What a pass sends is what the pass the other way starts from.
        sends = starts_from_other(task._replace(kind=other), size, rank, chunks)
        ahead = sum(sent.values()) - sum(gone.values())
        sent[task.kind] += sends
        found.append(ahead + (sends and task.kind == "forward"))
    return found
