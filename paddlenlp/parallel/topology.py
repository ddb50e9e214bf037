"""Where this process stands in the mesh of ranks. Built once, read everywhere."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, Optional, Sequence, Tuple

from .mesh import Mesh

if TYPE_CHECKING:
    from .group import Group

MakeGroup = Callable[[str, Sequence[int], int], "Group"]


def _solo() -> Group:
    from .group import SoloGroup  # this module is imported where Paddle must not be

    return SoloGroup()


@dataclass(frozen=True)
class Axis:
    """One dimension of the mesh: its size, this process's place on it, and the group of the ranks along it."""

    size: int = 1
    rank: int = 0
    group: Group = field(default_factory=_solo)

    @property
    def ranks(self) -> Tuple[int, ...]:
        """The global ranks along it."""
        return self.group.ranks

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
    """The mesh as this process sees it.

    Attributes:
        mesh: the sizes.
        world: all ranks.
        dp, pp, sharding, sep, cp, tp: the axes.
        sequence: sep or cp, whichever is above 1.
        data: dp and sharding together: the ranks that read different samples.
        replica: dp and sequence together: the ranks that hold the same part of a parameter whose optimizer state is
            cut over `sharding`.
        ep: the ranks among which the experts of a layer are dealt out.
        expert_sharding, expert_replica: for the parameters of experts what `sharding` and `replica` are for the others.
        ends: the first and the last pipeline stage (one rank if there is one stage); size 1 for those between.
        links: "forward_in", "forward_out", "backward_in", "backward_out" -> the group of two ranks over which
            activations and their gradients travel between neighbouring stages, each in one direction; the last and
            the first stage are neighbours too (interleaved schedule).
        sequence_parallel: activations between the layers are cut by rows over the tensor-parallel ranks.
        parallel_output: logits stay cut over the vocabulary (`tensor_parallel_output`).
    """

    mesh: Mesh = field(default_factory=Mesh)
    world: Axis = field(default_factory=Axis)
    dp: Axis = field(default_factory=Axis)
    pp: Axis = field(default_factory=Axis)
    sharding: Axis = field(default_factory=Axis)
    sep: Axis = field(default_factory=Axis)
    cp: Axis = field(default_factory=Axis)
    tp: Axis = field(default_factory=Axis)
    sequence: Axis = field(default_factory=Axis)
    data: Axis = field(default_factory=Axis)
    replica: Axis = field(default_factory=Axis)
    ep: Axis = field(default_factory=Axis)
    expert_sharding: Axis = field(default_factory=Axis)
    expert_replica: Axis = field(default_factory=Axis)
    ends: Axis = field(default_factory=Axis)
    links: Dict[str, Group] = field(default_factory=dict)
    sequence_parallel: bool = False
    parallel_output: bool = True


_topology: Optional[Topology] = None


def topology() -> Topology:
    """The mesh this process stands in: a single process until `init_topology` says otherwise."""
    global _topology
    if _topology is None:
        _topology = Topology()
    return _topology


def init_topology(args: Any) -> Topology:
    """Build the mesh that `args` (TrainingArguments) describe and make it what `topology()` returns.

    Raises:
        UsageError: the degrees do not fit the number of processes.
    """
    return set_topology(args.mesh, args.process_index, args.sequence_parallel, args.tensor_parallel_output)


def set_topology(mesh: Mesh, rank: int = 0, sequence_parallel: bool = False, parallel_output: bool = True) -> Topology:
    """Build `mesh` as seen by global rank `rank` and make it what `topology()` returns."""
    global _topology
    build = _Builder(mesh, rank, _group_maker())
    _topology = Topology(
        mesh=mesh,
        world=build.axis("world", "dp", "pp", "sharding", "sequence", "tp"),
        dp=build.axis("dp", "dp"),
        pp=build.axis("pp", "pp"),
        sharding=build.axis("sharding", "sharding"),
        sep=build.axis("sep", "sequence") if mesh.sep > 1 else Axis(),
        cp=build.axis("cp", "sequence") if mesh.cp > 1 else Axis(),
        tp=build.axis("tp", "tp"),
        sequence=build.axis("sequence", "sequence"),
        data=build.axis("data", "dp", "sharding"),
        replica=build.axis("replica", "dp", "sequence"),
        ep=build.axis("ep", "ep"),
        ends=build.ends(),
        links=build.links(),
        sequence_parallel=sequence_parallel and mesh.tp > 1,
        parallel_output=parallel_output,
        **build.experts(),
    )
    return _topology


@contextmanager
def standing_in(place: Topology) -> Iterator[None]:
    """Context in which `topology()` returns `place`: for what is asked of a layout, not done in it."""
    global _topology
    before, _topology = _topology, place
    try:
        yield
    finally:
        _topology = before


class _Builder:
    """Makes the groups of all lines in the same order on every rank, since some backends form them together."""

    def __init__(self, mesh: Mesh, rank: int, make: MakeGroup) -> None:
        self.mesh, self.rank, self.make = mesh, rank, make

    def axis(self, name: str, *axes: str) -> Axis:
        """The line through this rank along these axes."""
        own = [self._form(name, ranks) for ranks in self.mesh.lines(*axes)]
        group = next(group for group in own if group is not None)
        return Axis(group.size, group.rank, group)

    def experts(self) -> Dict[str, Axis]:
        """The axes of the parameters of experts."""
        sharded = self.mesh.expert_axis == "sharding"
        cut, replica = (("ep_replica",), ("dp", "sequence")) if sharded else (("sharding",), ("ep_replica", "sequence"))
        return {
            "expert_sharding": self.axis("expert_sharding", *cut),
            "expert_replica": self.axis("expert_replica", *replica),
        }

    def ends(self) -> Axis:
        """The first and last stage of this rank's pipeline."""
        found = Axis()
        for line in self.mesh.lines("pp") if self.mesh.pp > 1 else ():
            group = self._form("ends", (line[0], line[-1]))
            found = found if group is None else Axis(2, group.rank, group)
        return found

    def links(self) -> Dict[str, Group]:
        """The directed connections between neighbouring stages."""
        found = {}
        for line in self.mesh.lines("pp") if self.mesh.pp > 1 else ():
            for place, here in enumerate(line):
                following = line[(place + 1) % len(line)]
                for name, source, target in (("forward", here, following), ("backward", following, here)):
                    group = self._form(f"{name} {source}>{target}", tuple(sorted((source, target))))
                    if self.rank == source:
                        found[f"{name}_out"] = group
                    if self.rank == target:
                        found[f"{name}_in"] = group
        return found  # type: ignore[return-value]

    def _form(self, name: str, ranks: Sequence[int]) -> Optional[Group]:
        """The group of `ranks` if this rank is in it."""
        place = ranks.index(self.rank) if self.rank in ranks else -1
        if len(ranks) == 1:
            from .group import SoloGroup

            return SoloGroup(name, tuple(ranks)) if place == 0 else None
        group = self.make(name, ranks, place)
        return group if place >= 0 else None


def _group_maker() -> MakeGroup:
    """What makes groups on the device Paddle computes on."""
    import paddle

    if paddle.get_device().startswith("cpu") or int(os.environ.get("PADDLE_TRAINERS_NUM", "1")) == 1:
        from .socket_group import SocketGroup

        return SocketGroup
    from .paddle_group import PaddleGroup

    return PaddleGroup
