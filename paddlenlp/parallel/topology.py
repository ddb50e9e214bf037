"""Where this process stands in the mesh of ranks. Built once, read everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Tuple

from paddlenlp.utils.errors import UsageError

DEGREES = {
    "dp": "data_parallel_degree",
    "pp": "pipeline_parallel_degree",
    "sharding": "sharding_parallel_degree",
    "sep": "sep_parallel_degree",
    "cp": "context_parallel_degree",
    "ep": "expert_parallel_degree",
    "tp": "tensor_parallel_degree",
}
"""Axis of the mesh -> the argument that sets its size."""


@dataclass(frozen=True)
class Axis:
    """One dimension of the mesh: its size, this process's place on it, and the global ranks along it."""

    size: int = 1
    rank: int = 0
    group: Any = None
    ranks: Tuple[int, ...] = (0,)

    @property
    def is_first(self) -> bool:
        """Whether this process is the first along the axis."""
        return self.rank == 0

    @property
    def is_last(self) -> bool:
        """Whether this process is the last along the axis."""
        return self.rank == self.size - 1


@dataclass(frozen=True)
class Topology:
    """The mesh: data, pipeline, sharding, segment, context, expert and tensor parallel axes."""

    dp: Axis = Axis()
    pp: Axis = Axis()
    sharding: Axis = Axis()
    sep: Axis = Axis()
    cp: Axis = Axis()
    ep: Axis = Axis()
    tp: Axis = Axis()


_topology = Topology()


def topology() -> Topology:
    """The mesh this process stands in: a single process until `init_topology` says otherwise."""
    return _topology


def init_topology(args: Any) -> Topology:
    """Build the mesh from the degrees in `args` (TrainingArguments) and make it what `topology()` returns.

    Raises:
        UsageError: a degree above 1; the message names the argument.
    """
    global _topology
    asked = {flag: getattr(args, flag, 1) for flag in DEGREES.values()}
    above = [f"{flag}={degree}" for flag, degree in asked.items() if degree is not None and degree > 1]
    if above:
        raise UsageError(f"{', '.join(above)}: one process trains the model; set each degree to 1 or leave it out")
    _topology = Topology()
    return _topology
