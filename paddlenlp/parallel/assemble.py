"""Whole tensors of what the ranks hold, one at a time on rank 0, for files that know no layout.

Each rank says which elements of which tensors it can give; rank 0 alone learns who holds what, and fetches a tensor
when it is written. Nobody has to know the order of writing, and what rank 0 holds itself is not sent.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from math import prod
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple, TypeVar

import paddle
from paddle import Tensor

from paddlenlp.utils.tensor_writer import LazyTensor

from . import layout as layouts
from .errand import Errand
from .layout import REPLICATED, Fused, Layout
from .objects import at_first
from .topology import topology

Value = TypeVar("Value")
Key = Tuple[str, str]
"""A group of tensors that go to the same files ("model", "optimizer") and the name within it."""


@dataclasses.dataclass(frozen=True)
class Whole:
    """A tensor as files hold it.

    Attributes:
        name: within its group.
        shape: of the whole tensor.
        share: shape of one tensor-parallel rank's share.
        dtype: NumPy's name of the type, or "bfloat16".
        layout, fusion, transposed: as on the parameter; see `make_parameter`.
    """

    name: str
    shape: Tuple[int, ...]
    share: Tuple[int, ...]
    dtype: str
    layout: Layout = REPLICATED
    fusion: Optional[Fused] = None
    transposed: bool = False

    def pack(self) -> List[Any]:
        """What JSON can hold of it."""
        return [self.name, self.shape, self.share, self.dtype, _pack(self.layout), _pack(self.fusion), self.transposed]

    @classmethod
    def unpack(cls, packed: Sequence[Any]) -> Whole:
        """The tensor of which `packed` is the `pack`."""
        name, shape, share, dtype, layout, fusion, transposed = packed
        return cls(name, tuple(shape), tuple(share), dtype, _unpack(layout), _unpack(fusion), transposed)


def whole_of(name: str, param: Tensor, dtype: Optional[str] = None) -> Whole:
    """How files hold parameter `name`, or a tensor of the same shape in another `dtype`."""
    return Whole(
        name,
        tuple(getattr(param, "whole_shape", param.shape)),
        tuple(param.shape),
        dtype or str(param.dtype).rpartition(".")[2],
        getattr(param, "tp_layout", REPLICATED),
        getattr(param, "fusion", None),
        bool(getattr(param, "transposed", False)),
    )


class Part(NamedTuple):
    """Elements [start, stop) of this rank's flattened share of a tensor; `fetch` gives them, in any shape."""

    whole: Whole
    start: int
    stop: int
    fetch: Callable[[], Tensor]


class _Source(NamedTuple):
    """Where elements [start, stop) of the share of tensor-parallel rank `place` are to be had, as part `number`."""

    rank: int
    number: int
    place: int
    start: int
    stop: int


class Assembly:
    """The tensors of which the ranks of the job hold parts. Made by all of them together.

    Args:
        groups: what this rank can give, by group of tensors. Of copies, one rank's is enough; more do no harm.
        order: tensors are listed in this order of their names, and in that of the ranks where it says nothing.

    Attributes:
        tensors: group -> name -> tensor, made when it is written; empty but on rank 0.
    """

    def __init__(self, groups: Mapping[str, Sequence[Part]], order: Callable[[str], Any]) -> None:
        own = [(group, part) for group, parts in groups.items() for part in parts]
        self._own = [part for _, part in own]
        self._wholes: Dict[Key, Whole] = {}
        self._sources: Dict[Key, List[_Source]] = {}
        place = topology().tp.rank
        content = [[group, *part.whole.pack(), part.start, part.stop] for group, part in own]
        for rank, (place_there, parts) in enumerate(at_first((place, content)) or ()):
            self._list(rank, place_there, parts)
        self.tensors: Dict[str, Dict[str, LazyTensor]] = {group: {} for group in groups}
        for group, name in sorted(self._wholes, key=lambda key: order(key[1])):
            self.tensors[group][name] = self._lazy((group, name))
        self._errand = Errand(parts=[part.fetch for part in self._own])

    def wholes(self, group: str) -> List[Whole]:
        """The tensors of a group, in order; empty but on rank 0."""
        return [self._wholes[group, name] for name in self.tensors[group]]

    def write(self, action: Callable[[], Value]) -> Value:
        """Carry out `action`, which writes `tensors`, on rank 0, while the others hand out their parts.

        Returns:
            What it returned there, which must be what JSON can hold; on every rank.

        Raises:
            UsageError: it failed; on every rank.
        """
        return self._errand.run(action)

    def _list(self, rank: int, place: int, parts: Sequence[Sequence[Any]]) -> None:
        for number, (group, *packed, start, stop) in enumerate(parts):
            whole = Whole.unpack(packed)
            key = (group, whole.name)
            first = self._wholes.setdefault(key, whole)
            assert (first.shape, first.dtype) == (whole.shape, whole.dtype), f"ranks disagree on {key}"
            self._sources.setdefault(key, []).append(_Source(rank, number, place, start, stop))

    def _lazy(self, key: Key) -> LazyTensor:
        whole = self._wholes[key]
        return LazyTensor(whole.shape, whole.dtype, lambda: self._errand.lent(partial(self._gather, key)))

    def _gather(self, key: Key) -> Any:
        """The whole tensor: a Paddle tensor in host memory where one rank holds all of it, else an array."""
        whole, sources = self._wholes[key], self._sources[key]
        places = range(topology().tp.size if whole.layout.axis is not None else 1)
        covers = [_cover(whole, [source for source in sources if source.place == place]) for place in places]
        needed = [source for cover in covers for source in cover]
        wanted = [(source.rank, source.number, source.stop - source.start, whole.dtype) for source in needed]
        sent = iter(self._errand.ask([want for want in wanted if want[0]]))
        flat = {source: next(sent) if source.rank else self._own[source.number].fetch() for source in needed}
        shares = [_share(whole, [(source, flat[source]) for source in cover]) for cover in covers]
        return shares[0] if len(shares) == 1 else whole.layout.join([share.numpy() for share in shares])


def _cover(whole: Whole, sources: Sequence[_Source]) -> List[_Source]:
    """The sources, in order, that together hold one share of `whole`; the lowest rank of those that hold the same."""
    chosen: List[_Source] = []
    end = 0
    while end < prod(whole.share):
        chosen.append(next((source for source in sources if source.start <= end < source.stop), _NOWHERE))
        if chosen[-1] is _NOWHERE:
            raise RuntimeError(f"no rank holds element {end} of {whole.name}, of {prod(whole.share)} in a share")
        end = chosen[-1].stop
    return chosen


def _share(whole: Whole, parts: Sequence[Tuple[_Source, Tensor]]) -> Tensor:
    """One share of `whole` of parts that cover it in order; each may begin within the one before."""
    if len(parts) == 1:
        return parts[0][1].detach().cpu().reshape(whole.share)
    values, end = [], 0
    for source, part in parts:
        values.append(part.detach().cpu().flatten()[end - source.start :])
        end = source.stop
    return paddle.concat(values).reshape(whole.share)


_NOWHERE = _Source(0, 0, 0, 0, 0)


def _pack(value: Any) -> Any:
    """A frozen dataclass of the `layout` module as what JSON can hold."""
    return None if value is None else [type(value).__name__, dataclasses.asdict(value)]


def _unpack(packed: Any) -> Any:
    if packed is None:
        return None
    kind, fields = packed
    return getattr(layouts, kind)(**{name: _tuples(value) for name, value in fields.items()})


def _tuples(value: Any) -> Any:
    """Lists, as JSON knows them, back to tuples."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
