"""The arithmetic of the mesh of ranks: sizes, coordinates, and who shares a line with whom. Needs no Paddle.

Ranks are numbered along the axes with the last one running fastest: [dp, pp, sharding, sep, tp], or [dp, sharding, pp,
sep, tp]. Context parallelism takes the place of sep. Expert parallelism has no axis of its own: it cuts the lines of
the sharding axis, or where nothing is sharded those of dp, into runs of `ep` ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Dict, Iterable, List, Tuple

ORDERS: Dict[str, Tuple[str, ...]] = {
    "pp_first": ("dp", "pp", "sharding", "sequence", "tp"),
    "sharding_first": ("dp", "sharding", "pp", "sequence", "tp"),
}
"""`hybrid_parallel_topo_order` -> axes, slowest first."""

Ranks = Tuple[int, ...]


@dataclass(frozen=True)
class Mesh:
    """Sizes of the axes.

    Attributes:
        dp, pp, sharding, tp: data, pipeline, sharding and tensor parallel ranks.
        sep, cp: ranks that share a sequence; at most one of both is above 1.
        ep: ranks among which experts are dealt out; divides `sharding`, or `dp` where sharding is 1.
        order: a key of ORDERS.
    """

    dp: int = 1
    pp: int = 1
    sharding: int = 1
    sep: int = 1
    cp: int = 1
    tp: int = 1
    ep: int = 1
    order: str = "pp_first"

    @property
    def sequence(self) -> int:
        """Ranks that share a sequence, whichever way."""
        return self.sep * self.cp

    @property
    def world(self) -> int:
        """All ranks."""
        return prod(self._sizes().values())

    @property
    def expert_axis(self) -> str:
        """The axis whose lines expert parallelism cuts."""
        return "sharding" if self.sharding > 1 else "dp"

    def _sizes(self) -> Dict[str, int]:
        return {axis: getattr(self, axis) for axis in ORDERS[self.order]}

    def place(self, rank: int) -> Dict[str, int]:
        """Coordinates of `rank`: axis -> place on it."""
        found = {}
        for axis, size in reversed(self._sizes().items()):
            rank, found[axis] = divmod(rank, size)
        return found

    def rank(self, place: Dict[str, int]) -> int:
        """The rank at these coordinates."""
        number = 0
        for axis, size in self._sizes().items():
            number = number * size + place[axis]
        return number

    def line(self, rank: int, *axes: str) -> Ranks:
        """The ranks, ascending, that differ from `rank` on no other axes than these: "dp", "pp", "sharding",
        "sequence", "tp".

        For expert parallelism the expert axis can be given in two factors: "ep", the place within a run of `ep` ranks,
        and "ep_replica", which run it is.
        """
        own = self._expert_place(self.place(rank))
        free = set(axes) | ({"ep", "ep_replica"} if self.expert_axis in axes else set())
        return tuple(
            other
            for other in range(self.world)
            if all(free & {axis} or own[axis] == at for axis, at in self._expert_place(self.place(other)).items())
        )

    def lines(self, *axes: str) -> List[Ranks]:
        """All lines along these axes, each once, in order of their first rank."""
        return _distinct(self.line(rank, *axes) for rank in range(self.world))

    def _expert_place(self, place: Dict[str, int]) -> Dict[str, int]:
        """Coordinates with the expert axis in its two factors."""
        place = dict(place)
        place["ep_replica"], place["ep"] = divmod(place.pop(self.expert_axis), self.ep)
        return place


def _distinct(lines: Iterable[Ranks]) -> List[Ranks]:
    return list(dict.fromkeys(lines))
