"""Values that JSON can hold, exchanged over the ranks of an axis: what each has, what the first one found.

For what is small and rare: names, shapes, verdicts. Values travel as bytes in tensors, so that any `Group` carries
them.
"""

from __future__ import annotations

import json
import zlib
from typing import Any, List, Optional, TypeVar, Union

import numpy as np
import paddle

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
    lengths = group.all_gather(paddle.to_tensor([data.size], "int64")).wait().numpy()
    padded = np.zeros(lengths.max(), np.uint8)
    padded[: data.size] = data
    rows = group.all_gather(paddle.to_tensor(padded)).wait().numpy().reshape(group.size, -1)
    return [_unpacked(row[:length]) for row, length in zip(rows, lengths)]


def at_first(value: Value, axis: Line = None) -> Optional[List[Value]]:
    """`everyones(value)` on the first rank along `axis`, None on the others, which receive nothing."""
    group = as_group(axis)
    if group.rank == 0:
        return [value, *(_received(group, rank) for rank in range(1, group.size))]
    data = _packed(value)
    group.send(paddle.to_tensor([data.size], "int64"), 0).wait()
    group.send(paddle.to_tensor(data), 0).wait()
    return None


def from_first(value: Value, axis: Line = None) -> Value:
    """The `value` of the first rank along `axis`. Every rank of it calls this; what the others give does not matter."""
    group = as_group(axis)
    if group.size == 1:
        return value
    data = _packed(value if group.rank == 0 else None)
    length = int(group.broadcast(paddle.to_tensor([data.size], "int64")).wait())
    content = paddle.to_tensor(data) if group.rank == 0 else paddle.zeros([length], "uint8")
    return _unpacked(group.broadcast(content).wait().numpy())


def message_of(error: BaseException) -> str:
    """What to tell the other ranks of an error; never empty."""
    return str(error) if isinstance(error, UsageError) and str(error) else f"{type(error).__name__}: {error}"


def as_group(axis: Line) -> Group:
    """The group of the ranks concerned."""
    if axis is None:
        return topology().world.group
    return axis.group if isinstance(axis, Axis) else axis


def _received(group: Group, rank: int) -> Any:
    length = int(group.receive([1], "int64", rank).wait())
    return _unpacked(group.receive([length], "uint8", rank).wait().numpy())


def _packed(value: Any) -> np.ndarray:
    """Lists of names repeat themselves: compressed they are a tenth as long."""
    return np.frombuffer(zlib.compress(json.dumps(value).encode(), 1), np.uint8)


def _unpacked(data: np.ndarray) -> Any:
    return json.loads(zlib.decompress(data.tobytes()))
