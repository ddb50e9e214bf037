"""Which rank holds which elements of which tensors, and how files hold those tensors: whole, whatever the layout."""

from __future__ import annotations

import dataclasses
from math import prod
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from paddle import Tensor

from paddlenlp.utils.tensor_writer import LazyTensor, host_bytes, tensor_bytes

from .layout import REPLICATED, Fused, Layout
from .objects import Line, at_first
from .topology import topology

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

    @property
    def item(self) -> int:
        """Bytes of an element."""
        return tensor_bytes(LazyTensor((1,), self.dtype, _nothing))


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
    """Elements [start, stop) of this rank's flattened share of a tensor; `fetch` gives them, in any shape and float
    type."""

    whole: Whole
    start: int
    stop: int
    fetch: Callable[[], Any]

    def tensor(self) -> Tensor:
        """The elements in the type that files hold."""
        return self._cast(self.fetch().detach())

    def data(self, values: Any, start: int, stop: int) -> memoryview:
        """The bytes in files of [start, stop) of the elements that `fetch` gave as `values`, in host memory.

        Of contiguous tensors that lie there in the right type it is a view.
        """
        item = self.whole.item
        if isinstance(values, np.ndarray) or (values.place.is_cpu_place() and self._fits(values)):
            return host_bytes(values)[start * item : stop * item]
        return host_bytes(self._cast(values.detach().reshape([-1])[start:stop]))

    def _cast(self, values: Tensor) -> Tensor:
        dtype: Any = self.whole.dtype
        return values if self._fits(values) else values.astype(dtype)

    def _fits(self, values: Tensor) -> bool:
        return str(values.dtype).rpartition(".")[2] == self.whole.dtype


class Source(NamedTuple):
    """Where elements [start, stop) of the share of tensor-parallel rank `place` are to be had, as part `number`."""

    rank: int
    number: int
    place: int
    start: int
    stop: int


class Catalogue:
    """The tensors of which the ranks of the job hold parts. Made by all of them together.

    Args:
        groups: what this rank can give, by group of tensors. Of copies, one rank's is enough; more do no harm.
        order: tensors are listed in this order of their names, and in that of the ranks where it says nothing.
        line: the ranks; all of the job if None.

    Attributes:
        shares: into how many a cut tensor is cut.
        own: the parts of this rank, by number.
        wholes: the tensors, in order; empty but on the first rank.
        sources: of each tensor, in the order of the ranks.
    """

    def __init__(self, groups: Mapping[str, Sequence[Part]], order: Callable[[str], Any], line: Line = None) -> None:
        own = [(group, part) for group, parts in groups.items() for part in parts]
        self.shares = topology().tp.size
        self.own = [part for _, part in own]
        self.sources: Dict[Key, List[Source]] = {}
        found: Dict[Key, Whole] = {}
        content = [[group, *part.whole.pack(), part.start, part.stop] for group, part in own]
        for rank, (place, parts) in enumerate(at_first((topology().tp.rank, content), line) or ()):
            self._list(found, rank, place, parts)
        self.wholes = {key: found[key] for key in sorted(found, key=lambda key: order(key[1]))}

    def _list(self, found: Dict[Key, Whole], rank: int, place: int, parts: Sequence[Sequence[Any]]) -> None:
        for number, (group, *packed, start, stop) in enumerate(parts):
            whole = Whole.unpack(packed)
            key = (group, whole.name)
            first = found.setdefault(key, whole)
            assert (first.shape, first.dtype) == (whole.shape, whole.dtype), f"ranks disagree on {key}"
            self.sources.setdefault(key, []).append(Source(rank, number, place, start, stop))

    def of(self, group: str) -> List[Whole]:
        """The tensors of a group, in order."""
        return [whole for (stem, _), whole in self.wholes.items() if stem == group]

    def covers(self, key: Key, near: int = 0) -> List[List[Source]]:
        """For each share of a tensor, in the order of the tensor-parallel ranks, the sources that together hold it.

        They are in order; each may begin within the one before. Where several ranks hold the same, it is `near` that
        gives it, else the lowest.
        """
        whole, sources = self.wholes[key], sorted(self.sources[key], key=lambda source: source.rank != near)
        places = range(self.shares if whole.layout.axis is not None else 1)
        return [_cover(whole, [source for source in sources if source.place == place]) for place in places]


def _cover(whole: Whole, sources: Sequence[Source]) -> List[Source]:
    chosen: List[Source] = []
    end = 0
    while end < prod(whole.share):
        source = next((source for source in sources if source.start <= end < source.stop), None)
        if source is None:
            raise RuntimeError(f"no rank holds element {end} of {whole.name}, of {prod(whole.share)} in a share")
        chosen.append(source)
        end = source.stop
    return chosen


_KINDS: Dict[str, Any] = {"Layout": Layout, "Fused": Fused}
"""What may be unpacked, also of a file: nothing else of that module is called."""


def _pack(value: Any) -> Any:
    """A frozen dataclass of the `layout` module as what JSON can hold."""
    return None if value is None else [type(value).__name__, dataclasses.asdict(value)]


def _unpack(packed: Any) -> Any:
    if packed is None:
        return None
    kind, fields = packed
    return _KINDS[kind](**{name: _tuples(value) for name, value in fields.items()})


def _tuples(value: Any) -> Any:
    """Lists, as JSON knows them, back to tuples."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _nothing() -> None:
    """What a tensor is made of that only its size is asked of."""
