"""Values that JSON can hold, exchanged over the ranks of an axis: what each has, what the first one found.

For what is small and rare: names, shapes, verdicts. Values travel as bytes in tensors, so that any `Group` carries
them.
"""

from __future__ import annotations

import json
import zlib
from typing import Any, List, Optional, Sequence, TypeVar, Union

import numpy as np
import paddle
from paddle import Tensor

from paddlenlp.utils.errors import UsageError

from .group import Group
from .topology import Axis, topology

Value = TypeVar("Value")
Line = Optional[Union[Axis, Group]]
"""The ranks concerned; None: all of the job."""


def everyones(value: Value, axis: Line = None) -> List[Value]:
    """The `value` of every rank along `axis`, in rank order. Every rank of it calls this.

    Args:
        value: what JSON can hold; it may differ from rank to rank, also in length.
    """
    group = as_group(axis)
    if group.size == 1:
        return [value]
    data = _packed(value)
    lengths = group.all_gather(_length(data, group)).wait().numpy()
    padded = np.zeros(lengths.max(), np.uint8)
    padded[: data.size] = data
    rows = group.all_gather(_tensor(padded, group)).wait().numpy().reshape(group.size, -1)
    return [_unpacked(row[:length]) for row, length in zip(rows, lengths)]


def at_first(value: Value, axis: Line = None) -> Optional[List[Value]]:
    """`everyones(value)` on the first rank along `axis`, None on the others, which receive nothing."""
    group = as_group(axis)
    if group.rank == 0:
        return [value, *(_received(group, rank) for rank in range(1, group.size))]
    _send(_packed(value), group, 0)
    return None


def for_each(values: Optional[Sequence[Value]], axis: Line = None) -> Value:
    """On each rank along `axis` the one of the `values` of the first rank that is meant for it. Every rank of it calls
    this; what the others give does not matter."""
    group = as_group(axis)
    if group.rank:
        return _received(group, 0)
    assert values is not None and len(values) == group.size
    for rank in range(1, group.size):
        _send(_packed(values[rank]), group, rank)
    return values[0]


def from_first(value: Value, axis: Line = None) -> Value:
    """The `value` of the first rank along `axis`. Every rank of it calls this; what the others give does not matter."""
    group = as_group(axis)
    if group.size == 1:
        return value
    data = _packed(value if group.rank == 0 else None)
    length = int(group.broadcast(_length(data, group)).wait())
    content = data if group.rank == 0 else np.zeros(length, np.uint8)
    return _unpacked(group.broadcast(_tensor(content, group)).wait().numpy())


def message_of(error: BaseException) -> str:
    """What to tell the other ranks of an error; never empty."""
    return str(error) if isinstance(error, UsageError) and str(error) else f"{type(error).__name__}: {error}"


def as_group(axis: Line) -> Group:
    """The group of the ranks concerned."""
    if axis is None:
        return topology().world.group
    return axis.group if isinstance(axis, Axis) else axis


def _send(data: np.ndarray, group: Group, rank: int) -> None:
    group.send(_length(data, group), rank).wait()
    group.send(_tensor(data, group), rank).wait()


def _received(group: Group, rank: int) -> Any:
    length = int(group.receive([1], "int64", rank).wait())
    return _unpacked(group.receive([length], "uint8", rank).wait().numpy())


def _length(data: np.ndarray, group: Group) -> Tensor:
    return _tensor(np.asarray([data.size], np.int64), group)


def _tensor(data: np.ndarray, group: Group) -> Tensor:
    return paddle.to_tensor(data, place=group.device)


def _packed(value: Any) -> np.ndarray:
    """Lists of names repeat themselves: compressed they are a tenth as long."""
    return np.frombuffer(zlib.compress(json.dumps(value).encode(), 1), np.uint8)


def _unpacked(data: np.ndarray) -> Any:
    return json.loads(zlib.decompress(data.tobytes()))
