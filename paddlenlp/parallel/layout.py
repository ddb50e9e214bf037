"""How one tensor is cut over the tensor-parallel ranks, and how a fused tensor is made of its parts.

Both facts ride on the parameter: `param.tp_layout` is a Layout, `param.fusion` a Fused or absent. Reading a Hugging
    Face file,
saving a merged checkpoint and resuming on another degree all follow from them, so no family keeps a list.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Optional, Sequence, Tuple

import numpy as np

from paddlenlp.utils.errors import UsageError


@dataclass(frozen=True)
class Layout:
    """Cut `axis` into equal shares, or keep the tensor whole where `axis` is None.

    `parts` are the widths along `axis` of tensors that lie one after the other in this one (gate | up): each is cut by
    itself.
    """

    axis: Optional[int] = None
    parts: Tuple[int, ...] = ()

    def cut(self, array: np.ndarray, rank: int, size: int) -> np.ndarray:
        """The share of `rank` among `size` ranks of the whole `array`.

        Raises:
            UsageError: a part is not divisible by `size`.
        """
        if self.axis is None or size == 1:
            return array
        shares = [_share(part, rank, size, self.axis) for part in self._split(array, self.axis, 1)]
        return shares[0] if len(shares) == 1 else np.concatenate(shares, self.axis)

    def join(self, shares: Sequence[np.ndarray]) -> np.ndarray:
        """The whole tensor of which `shares` are the cuts, in rank order."""
        if self.axis is None or len(shares) == 1:
            return shares[0]
        columns = zip(*[self._split(share, self.axis, len(shares)) for share in shares])
        return np.concatenate([np.concatenate(column, self.axis) for column in columns], self.axis)

    def _split(self, array: np.ndarray, axis: int, size: int) -> List[np.ndarray]:
        """The parts of the tensor, or of one of its `size` cuts."""
        bounds = np.cumsum([part // size for part in self.parts])[:-1]
        return np.split(array, bounds, axis) if self.parts else [array]


def _share(part: np.ndarray, rank: int, size: int, axis: int) -> np.ndarray:
    width = part.shape[axis]
    if width % size:
        raise UsageError(
            f"axis {axis} of a tensor {list(part.shape)} has width {width}, which {size} ranks cannot share equally: "
            f"set tensor_parallel_degree to a divisor of {width}"
        )
    return np.split(part, size, axis)[rank]


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
