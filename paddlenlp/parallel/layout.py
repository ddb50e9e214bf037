"""How one tensor is cut over the tensor-parallel ranks, and how a fused tensor is made of its parts.

Both facts ride on the parameter: `param.tp_layout` is a Layout, `param.fusion` a Fused or absent. Reading a Hugging
Face file, saving a merged checkpoint and resuming on another degree all follow from them, so no family keeps a list.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from paddlenlp.utils.errors import UsageError


class Span(NamedTuple):
    """[start, stop) along the cut axis of the whole tensor, which `copies` ranks hold."""

    start: int
    stop: int
    copies: int = 1


@dataclass(frozen=True)
class Layout:
    """Cut `axis` into equal shares, or keep the tensor whole where `axis` is None.

    Attributes:
        axis: the axis.
        parts: widths along `axis` of the tensors this one is made of (gate and up): each is cut by itself. Without
            them the tensor is one part.
        units: how many units that must not be cut (key heads) each part consists of. Where there are fewer units than
            ranks, each rank holds a copy of the one it needs: rank r of n that of unit r * units / n. 0 for a part
            without units; none at all if none has any.
        groups: the axis is seen as so many equal groups, each with its piece of every part in turn (the queries, the
            key and the value of one key head). Ranks share them by whole groups as long as there are enough. One group
            has the parts one after the other.
    """

    axis: Optional[int] = None
    parts: Tuple[int, ...] = ()
    units: Tuple[int, ...] = ()
    groups: int = 1

    def cut(self, array: np.ndarray, rank: int, size: int) -> np.ndarray:
        """The share of `rank` among `size` ranks of the whole `array`.

        Raises:
            UsageError: (all methods) `size` ranks cannot share the tensor.
        """
        if self.axis is None or size == 1:
            return array
        spans = self.spans(array.shape[self.axis], rank, size)
        shares = [array[self._along(span.start, span.stop)] for span in spans]
        return shares[0] if len(shares) == 1 else np.concatenate(shares, self.axis)

    def join(self, shares: Sequence[np.ndarray]) -> np.ndarray:
        """The whole tensor of which `shares` are the cuts, in rank order."""
        if self.axis is None or len(shares) == 1:
            return shares[0]
        shape = list(shares[0].shape)
        shape[self.axis] = self._whole_width(shape[self.axis], len(shares))
        whole = np.empty(shape, shares[0].dtype)
        for rank, share in enumerate(shares):
            at = 0
            for start, stop, _ in self.spans(shape[self.axis], rank, len(shares)):
                whole[self._along(start, stop)] = share[self._along(at, at + stop - start)]
                at += stop - start
        return whole

    def share_shape(self, shape: Sequence[int], size: int) -> List[int]:
        """The shape of each of `size` shares of a tensor of this `shape`."""
        found = list(shape)
        if self.axis is not None:
            found[self.axis] = sum(span.stop - span.start for span in self.spans(found[self.axis], 0, size))
        return found

    def copies(self, width: int, size: int) -> np.ndarray:
        """How many of `size` ranks hold each element along the cut axis of a share of a tensor of `width`: float32,
        the same for every rank."""
        spans = self.spans(width, 0, size)
        return np.concatenate([np.full(stop - start, copies, np.float32) for start, stop, copies in spans])

    def spans(self, width: int, rank: int, size: int) -> List[Span]:
        """What `rank` holds of the `width` elements along the cut axis, in the order in which it holds them."""
        if self.groups % size == 0:
            step = width // size
            return [Span(rank * step, (rank + 1) * step)]
        if size % self.groups:
            what = f"The {self.groups} groups of heads that are fused in one tensor of width {width}"
            raise UsageError(_refusal(what, size, self.groups, copied=True))
        ranks = size // self.groups
        group, place = divmod(rank, ranks)
        at, spans = group * (width // self.groups), []
        parts = self.parts or (width,)
        for part, units in zip(parts, self.units or (0,) * len(parts)):
            start, stop, copies = _share(part // self.groups, units // self.groups, place, ranks)
            spans.append(Span(at + start, at + stop, copies))
            at += part // self.groups
        return spans

    def box(self, shape: Sequence[int], rank: int, size: int) -> List[List[Tuple[int, int]]]:
        """For each axis of a tensor of this `shape` the ranges [start, stop) that `rank` holds, in its order."""
        whole = [[(0, width)] for width in shape]
        if self.axis is not None and size > 1:
            whole[self.axis] = [(start, stop) for start, stop, _ in self.spans(shape[self.axis], rank, size)]
        return whole

    def _along(self, start: int, stop: int) -> Tuple[slice, ...]:
        return (*[slice(None)] * (self.axis or 0), slice(start, stop))

    def _whole_width(self, width: int, size: int) -> int:
        """The width of the whole tensor of which a share is `width` wide."""
        if self.parts:
            return sum(self.parts)
        return width * (min(size, self.units[0]) if self.units and self.units[0] else size)


def _share(width: int, units: int, place: int, ranks: int) -> Span:
    """What the rank at `place` among `ranks` holds of one part."""
    if 0 < units < ranks and ranks % units == 0:
        copies, step = ranks // units, width // units
        unit = place // copies
        return Span(unit * step, (unit + 1) * step, copies)
    if units % ranks:
        raise UsageError(_refusal(f"The {units} heads of a tensor of width {width}", ranks, units, copied=True))
    if width % ranks:
        raise UsageError(_refusal(f"A tensor of width {width}", ranks, width))
    step = width // ranks
    return Span(place * step, (place + 1) * step)


def equal_share(count: int, size: int, what: str) -> int:
    """What each of `size` ranks gets of `count`.

    Raises:
        UsageError: they cannot share it equally; `what` names what is counted.
    """
    if count % size:
        raise UsageError(_refusal(f"{what}={count}", size, count))
    return count // size


def _refusal(what: str, ranks: int, count: int, copied: bool = False) -> str:
    divisors = ", ".join(str(n) for n in range(1, min(count, 256) + 1) if count % n == 0)
    return (
        f"{what} cannot be shared equally by {ranks} ranks: set tensor_parallel_degree to a divisor of {count} "
        f"({divisors}){', or to a multiple of it' if copied else ''}"
    )


REPLICATED = Layout()


@dataclass(frozen=True)
class Fused:
    """One tensor that holds several, joined along the last axis (the outputs of a matrix, or a bias).

    The last axis is seen as `groups` equal groups; each holds that group's columns of every part in turn. One group
    puts the parts one after the other (gate | up); one group for each key head keeps the queries of a head beside
    their key and value, so that ranks can share the tensor by groups.

    Both the fused parameter and the separate ones carry this object, whichever the model has, so that a file in the
    other form can be read.

    Attributes:
        name: attribute name of the layer that holds the fused tensor ("qkv_proj").
        parts: attribute names of the separate layers ("q_proj", "k_proj", "v_proj").
        sizes: width of each part along the last axis.
        groups: number of groups.
    """

    name: str
    parts: Tuple[str, ...]
    sizes: Tuple[int, ...]
    groups: int = 1

    def fuse(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """One array [..., sum(sizes)] of arrays [..., sizes[i]], in the order of `parts`."""
        lead = arrays[0].shape[:-1]
        grouped = [array.reshape(*lead, self.groups, -1) for array in arrays]
        return np.concatenate(grouped, -1).reshape(*lead, -1)

    def separate(self, array: np.ndarray) -> List[np.ndarray]:
        """Arrays [..., sizes[i]] of one array [..., sum(sizes)], in the order of `parts`."""
        lead = array.shape[:-1]
        bounds = np.cumsum([size // self.groups for size in self.sizes])[:-1]
        grouped = np.split(array.reshape(*lead, self.groups, -1), bounds, -1)
        return [part.reshape(*lead, -1) for part in grouped]

    def part_names(self, name: str) -> Optional[List[str]]:
        """The parameters of which `name` is made, or None where `name` is not the fused parameter."""
        path, _, leaf = name.rpartition(".")
        owner, _, layer = path.rpartition(".")
        return [f"{owner}.{part}.{leaf}" for part in self.parts] if layer == self.name else None

    def whole_name(self, name: str) -> Optional[Tuple[str, int]]:
        """The fused parameter that holds `name` and which of its parts `name` is, or None where `name` is not a
        part."""
        path, _, leaf = name.rpartition(".")
        owner, _, layer = path.rpartition(".")
        return (f"{owner}.{self.name}.{leaf}", self.parts.index(layer)) if layer in self.parts else None
