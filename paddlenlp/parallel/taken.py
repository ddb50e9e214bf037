"""What a rank of a pipeline knows of its own sends from what comes in. Plain arithmetic, like `schedule`.

A neighbour that sends the result of a pass has been through all passes before it in its own schedule, so it has taken
what those started from. Nobody has to ask whether that has left.
"""

from __future__ import annotations

from typing import Dict

from .schedule import Task, schedule


def starts_from_other(task: Task, size: int, rank: int, chunks: int) -> bool:
    """Whether a task of `rank` starts from what another rank sends: all do but those at the ends of the model."""
    return task.chunk * size + rank != (0 if task.kind == "forward" else size * chunks - 1)


def taken(size: int, rank: int, micro_batches: int, chunks: int) -> Dict[Task, int]:
    """Each task of `rank` that starts from something received -> how many of the sends the other way (gradients, if it
    received hidden states, and the reverse) their receiver has taken when it is there.

    Args:
        size, rank, micro_batches, chunks: as for `schedule`, which says what is raised.
    """
    found: Dict[Task, int] = {}
    for kind, step in (("forward", -1), ("backward", 1)):
        neighbour, count = (rank + step) % size, 0
        for task in schedule(size, neighbour, micro_batches, chunks):
            if task.kind != kind:
                count += starts_from_other(task, size, neighbour, chunks)
                continue
            chunk, place = divmod(task.chunk * size + neighbour - step, size)
            if place == rank and 0 <= chunk < chunks:
                found[task._replace(chunk=chunk)] = count
    return found
