"""The memory of CPU tensors, and sums over what several ranks have sent."""

from __future__ import annotations

import ctypes
from typing import Any, Callable, Dict, List, Sequence

import numpy as np
import paddle
from paddle import Tensor, _C_ops

from paddlenlp.utils.errors import UsageError

TYPES = ("float32", "float64", "float16", "bfloat16", "int32", "int64", "bool", "uint8", "int8", "int16")
"""What can be sent."""

_COMBINE: Dict[str, Any] = {"sum": np.add, "max": np.maximum, "min": np.minimum}


def type_name(x: Tensor) -> str:
    """ "float32" for paddle.float32.

    Raises:
        UsageError: tensors of this type can't be sent.
    """
    name = str(x.dtype).rpartition(".")[2]
    if name not in TYPES:
        raise UsageError(f"a tensor of type {name} can't be sent to other ranks; these can: {', '.join(TYPES)}")
    return name


def memory(x: Tensor) -> memoryview:
    """The bytes of a contiguous tensor, where they lie.

    Raises:
        UsageError: the tensor isn't contiguous, or not in this process's memory.
    """
    if x.size == 0:
        return memoryview(bytearray())
    if not x.place.is_cpu_place() or not x.is_contiguous():
        kind = "is not contiguous" if x.place.is_cpu_place() else f"lies on {x.place}"
        raise UsageError(
            f"a tensor of shape {x.shape} can't be changed in place by the other ranks, for it {kind}; give "
            "x.contiguous() on the CPU"
        )
    buffer = (ctypes.c_ubyte * (x.size * x.element_size())).from_address(x.data_ptr())
    buffer.owner = x  # type: ignore[attr-defined]  # the memory lives as long as its view
    return memoryview(buffer).cast("B")


def dense(x: Tensor) -> Tensor:
    """`x`, or a contiguous copy. (Paddle's `contiguous` would cut `x` off from the tensor that it is a view of.)"""
    return x if x.is_contiguous() else x.clone()


def cut(view: memoryview, sizes: Sequence[int]) -> List[memoryview]:
    """Consecutive pieces of these numbers of bytes."""
    pieces, start = [], 0
    for size in sizes:
        pieces.append(view[start : start + size])
        start += size
    return pieces


def room(view: memoryview) -> memoryview:
    """Fresh memory of the same size."""
    return np.empty(len(view), np.uint8).data


def combine(parts: Sequence[memoryview], op: str, kind: str, target: memoryview) -> None:
    """Write the sum, maximum or minimum of `parts`, taken in their order, to `target`, which may be one of them.

    Half-precision numbers are added in float32 and rounded once, to nearest even; all others in their own type, whole
    numbers therefore modulo their range. The sum of truth values says whether one is true.
    """
    function, read = _COMBINE[op], _READ.get(kind, lambda part: np.frombuffer(part, kind))
    with np.errstate(over="ignore", invalid="ignore"):
        total = function(read(parts[0]), read(parts[1]))
        for part in parts[2:]:
            function(total, read(part), out=total)
        np.frombuffer(target, _STORED.get(kind, kind))[...] = _WRITE.get(kind, lambda values: values)(total)


def _widen(part: memoryview) -> np.ndarray:
    """bfloat16 is the upper half of a float32."""
    return (np.frombuffer(part, np.uint16).astype(np.uint32) << 16).view(np.float32)


def _narrow(values: np.ndarray) -> np.ndarray:
    bits = values.view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    return np.where(np.isnan(values), (bits >> 16) | 0x40, rounded).astype(np.uint16)


_STORED: Dict[str, str] = {"bfloat16": "uint16"}
_READ: Dict[str, Callable[[memoryview], np.ndarray]] = {
    "bfloat16": _widen,
    "float16": lambda part: np.frombuffer(part, np.float16).astype(np.float32),
}
_WRITE: Dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "bfloat16": _narrow,
    "float16": lambda values: values.astype(np.float16),
}


def empty(shape: Sequence[int], dtype: Any) -> Tensor:
    """A tensor in host memory, whatever device Paddle computes on, that is to be filled."""
    return _C_ops.empty(list(shape), dtype, paddle.CPUPlace())
