"""The arithmetic of the mesh of ranks: sizes, coordinates, who shares a line with whom, and how the sizes follow from
the degrees a user asks for. Needs no Paddle.

Ranks are numbered along the axes with the last one running fastest: [dp, pp, sharding, sep, tp], or [dp, sharding, pp,
sep, tp]. Context parallelism takes the place of sep. Expert parallelism has no axis of its own: it cuts the lines of
the sharding axis, or where nothing is sharded those of dp, into runs of `ep` ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Dict, List, Sequence, Tuple

from paddlenlp.utils.errors import UsageError

ORDERS: Dict[str, Tuple[str, ...]] = {
    "pp_first": ("dp", "pp", "sharding", "sequence", "tp"),
    "sharding_first": ("dp", "sharding", "pp", "sequence", "tp"),
}
"""`hybrid_parallel_topo_order` -> axes, slowest first."""

Ranks = Tuple[int, ...]
Problem = Tuple[Tuple[str, ...], str]
"""The arguments a mistake is about, and what to say."""


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
    def data(self) -> int:
        """Ranks that read different samples."""
        return self.dp * self.sharding

    @property
    def world(self) -> int:
        """All ranks."""
        return prod(self._sizes().values())

    @property
    def expert_axis(self) -> str:
        """The axis whose lines expert parallelism cuts."""
        return "sharding" if self.sharding > 1 else "dp"

    def __str__(self) -> str:
        """Such as "8 processes = dp 1 x pp 2 x sharding 2 x tp 2"."""
        if self.world == 1:
            return "1 process"
        names = ["cp" if axis == "sequence" and self.cp > 1 else axis for axis in ORDERS[self.order]]
        sizes = [("sep", self.sep) if name == "sequence" else (name, getattr(self, name)) for name in names]
        axes = " x ".join(f"{name} {size}" for name, size in sizes if size > 1 or name == "dp")
        experts = f"; experts dealt out over {self.ep} ranks of {self.expert_axis}" if self.ep > 1 else ""
        return f"{self.world} processes = {axes}{experts}"

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

    def data_rank(self, rank: int) -> int:
        """Which of the `data` shares of every batch `rank` reads."""
        place = self.place(rank)
        return self.sharding * place["dp"] + place["sharding"]

    def line(self, rank: int, *axes: str) -> Ranks:
        """The ranks, ascending, that differ from `rank` on no other axes than these: "dp", "pp", "sharding",
        "sequence", "tp".

        For expert parallelism the expert axis can be given in two factors: "ep", the place within a run of `ep` ranks,
        and "ep_replica", which run it is.
        """
        return next(line for line in self.lines(*axes) if rank in line)

    def lines(self, *axes: str) -> List[Ranks]:
        """All lines along these axes, each once, in order of their first rank."""
        free = set(axes) | ({"ep", "ep_replica"} if self.expert_axis in axes else set())
        found: Dict[Tuple[int, ...], List[int]] = {}
        for rank in range(self.world):
            place = self._expert_place(self.place(rank))
            fixed = tuple(at for axis, at in sorted(place.items()) if axis not in free)
            found.setdefault(fixed, []).append(rank)
        return [tuple(line) for line in found.values()]

    def _expert_place(self, place: Dict[str, int]) -> Dict[str, int]:
        """Coordinates with the expert axis in its two factors."""
        place = dict(place)
        place["ep_replica"], place["ep"] = divmod(place.pop(self.expert_axis), self.ep)
        return place


@dataclass(frozen=True)
class Degrees:
    """What a user asks for, under the names of the arguments; -1: not set.

    Attributes:
        sharded: whether `sharding` names a stage.
        order: a key of ORDERS.
    """

    tensor_parallel_degree: int = -1
    pipeline_parallel_degree: int = -1
    sep_parallel_degree: int = -1
    context_parallel_degree: int = -1
    sharding_parallel_degree: int = -1
    sharding_degree: int = -1
    expert_parallel_degree: int = -1
    expert_tensor_parallel_degree: int = -1
    use_expert_parallel: bool = False
    sharded: bool = False
    order: str = "pp_first"

    @property
    def sharding(self) -> int:
        """The sharding degree under its present or its old name, -1 if it is not set."""
        return max(self.sharding_parallel_degree, self.sharding_degree)


def derive_mesh(wanted: Degrees, world: int) -> Mesh:
    """The mesh of `world` processes: what is not asked for is data parallel.

    Where a sharding stage is set and no sharding degree, all data-parallel ranks share the optimizer state.

    Raises:
        UsageError: the degrees do not fit; all that is wrong with them is listed.
    """
    problems = degree_problems(wanted, world)
    if problems:
        raise UsageError("\n".join(text for _, text in problems))
    mesh = _without_experts(wanted, world)
    ep = mesh.dp if wanted.use_expert_parallel else max(1, wanted.expert_parallel_degree)
    return Mesh(mesh.dp, mesh.pp, mesh.sharding, mesh.sep, mesh.cp, mesh.tp, ep, mesh.order)


def degree_problems(wanted: Degrees, world: int) -> List[Problem]:
    """Everything that keeps `wanted` from being a mesh of `world` processes."""
    problems = _contradictions(wanted)
    parts = {name: degree for name, degree in _parts(wanted).items() if degree > 1}
    arithmetic = _arithmetic(parts, world)
    problems += arithmetic
    if not arithmetic:
        problems += _expert_problems(wanted, _without_experts(wanted, world))
    return problems


def least_processes(wanted: Degrees) -> int:
    """The fewest processes of which `wanted` can be a mesh, if what it says goes together."""
    parts = _parts(wanted)
    sharding = [degree for name, degree in parts.items() if name.startswith("sharding") and degree > 1]
    dealt_out = 1 if sharding else max(1, wanted.expert_parallel_degree)
    return prod(max(1, degree) for degree in parts.values()) * dealt_out


def _parts(wanted: Degrees) -> Dict[str, int]:
    """Argument -> how many ranks it asks for, of those whose product divides the number of processes."""
    old = wanted.sharding_parallel_degree <= 0 < wanted.sharding_degree
    return {
        "tensor_parallel_degree": wanted.tensor_parallel_degree,
        "pipeline_parallel_degree": wanted.pipeline_parallel_degree,
        "sep_parallel_degree": wanted.sep_parallel_degree,
        "context_parallel_degree": wanted.context_parallel_degree,
        "sharding_degree" if old else "sharding_parallel_degree": wanted.sharding if wanted.sharded else 1,
    }


def _without_experts(wanted: Degrees, world: int) -> Mesh:
    tp, pp, sep, cp, sharding = (max(1, degree) for degree in _parts(wanted).values())
    if wanted.sharded and wanted.sharding < 1:
        sharding = world // (tp * pp * sep * cp)
    dp = world // (tp * pp * sep * cp * sharding)
    return Mesh(dp, pp, sharding, sep, cp, tp, order=wanted.order)


def _contradictions(wanted: Degrees) -> List[Problem]:
    """What is wrong whatever the number of processes."""
    degrees = {name: value for name, value in vars(wanted).items() if name.endswith("_degree")}
    found: List[Problem] = [
        ((name,), f"{name} 0 is not a number of processes; write 1 to turn it off, or leave it out")
        for name, value in degrees.items()
        if value == 0
    ]
    sep, cp = wanted.sep_parallel_degree, wanted.context_parallel_degree
    if sep > 1 and cp > 1:
        text = f"sep_parallel_degree {sep} and context_parallel_degree {cp} exclude each other; set one of them to 1"
        found.append((("sep_parallel_degree", "context_parallel_degree"), text))
    new, old = wanted.sharding_parallel_degree, wanted.sharding_degree
    names = ("sharding_parallel_degree", "sharding_degree")
    if new > 0 and old > 0 and new != old:
        found.append((names, f"{names[0]} {new} and its old name {names[1]} {old} differ; leave out {names[1]}"))
    if wanted.sharding > 1 and not wanted.sharded:
        name = names[0] if new > 1 else names[1]
        found.append(
            ((name, "sharding"), f"{name} {wanted.sharding} needs sharding: set it to stage1, stage2 or stage3")
        )
    tp, expert_tp = max(1, wanted.tensor_parallel_degree), wanted.expert_tensor_parallel_degree
    if expert_tp > 0 and expert_tp != tp:
        text = f"expert_tensor_parallel_degree {expert_tp} is not tensor_parallel_degree {tp}: the matrices of experts "
        text += f"are cut over the tensor-parallel ranks as all others are; leave it out or write {tp}"
        found.append((("expert_tensor_parallel_degree", "tensor_parallel_degree"), text))
    return found


def _arithmetic(parts: Dict[str, int], world: int) -> List[Problem]:
    """Why `world` processes can't be cut into these parts."""
    total = prod(parts.values())
    if world % total == 0:
        return []
    names, product = tuple(parts), " x ".join(f"{name} {degree}" for name, degree in parts.items())
    if world == 1:
        equals = f" = {total} processes" if len(parts) > 1 else ""
        text = f"{product}{equals} asked for, and this is one process; start {total} of them, or a multiple: "
        return [(names, text + f"python -m paddle.distributed.launch --nproc_per_node {total} llm/run_pretrain.py ...")]
    equation = f"{world} processes = {product} x data-parallel processes: {world} is not a multiple of"
    alone = {name: degree for name, degree in parts.items() if world % degree}
    if alone:
        return [
            ((name,), f"{equation} {degree}; for {name} use {either(divisors(world))}")
            for name, degree in alone.items()
        ]
    others = {name: total // degree for name, degree in parts.items()}
    ways = [f"{name} {either(divisors(world // rest))}" for name, rest in others.items() if world % rest == 0]
    advice = f"use {', or '.join(ways)}" if ways else f"their product may be {either(divisors(world))}"
    return [(names, f"{equation} {total}; {advice}")]


def _expert_problems(wanted: Degrees, mesh: Mesh) -> List[Problem]:
    """Why the experts can't be dealt out over the ranks of `mesh`."""
    ep, names = wanted.expert_parallel_degree, ("expert_parallel_degree", "use_expert_parallel")
    if wanted.use_expert_parallel and mesh.sharding > 1:
        text = (
            "use_expert_parallel deals the experts out over the data-parallel processes, not over those of sharding; "
        )
        text += f"with sharding write expert_parallel_degree instead: {either(divisors(mesh.sharding))}"
        return [(("use_expert_parallel", "sharding"), text)]
    if wanted.use_expert_parallel and ep > 0 and ep != mesh.dp:
        text = f"use_expert_parallel deals the experts out over all {mesh.dp} data-parallel processes, but "
        return [(names, text + f"expert_parallel_degree is {ep}; leave out one of the two")]
    kind, size = ("sharding", mesh.sharding) if mesh.sharding > 1 else ("data-parallel", mesh.dp)
    if ep > 1 and size == 1:
        text = f"expert_parallel_degree {ep} needs as many processes that read different data, and there is one; "
        text += f"start more: python -m paddle.distributed.launch --nproc_per_node {mesh.world * ep} ..."
        return [(names[:1], text)]
    if ep > 1 and size % ep:
        text = f"expert_parallel_degree {ep} does not divide the {size} {kind} processes, over which the experts are "
        return [(names[:1], text + f"dealt out; use {either(divisors(size))}")]
    return []


def divisors(number: int) -> List[int]:
    """All divisors, ascending."""
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def either(numbers: Sequence[int]) -> str:
    """Such as "1, 2 or 4"."""
    *first, last = map(str, numbers)
    return f"{', '.join(first)} or {last}" if first else last
