"""Compares an operation with the plain one on small inputs, in values and gradients, before it may be used."""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterator, List, Sequence, Tuple

import numpy as np
import paddle
from paddle import Tensor

from . import plain
from .documents import Documents
from .precision import DType

Kernel = Callable[..., Any]
Results = List[Tuple[str, np.ndarray]]

TOLERANCE: Dict[DType, float] = {"float32": 1e-5, "bfloat16": 2e-2, "float16": 4e-3}
"""By how much a result may differ, as a share of the largest element of the plain one."""


class _Fault(Exception):
    """What is wrong, in words."""


def fault(op: str, kernel: Kernel, dtypes: Sequence[DType] = ("float32",)) -> str:
    """What is wrong with `kernel`, which takes the arguments of `plain.<op>`; "" if it may be used.

    Args:
        dtypes: of the tensors it is tried with.

    Raises:
        Exception: whatever the kernel raises.
    """
    try:
        return next(_faults(op, kernel, dtypes), "")
    except _Fault as found:
        return str(found)


def _faults(op: str, kernel: Kernel, dtypes: Sequence[DType]) -> Iterator[str]:
    for dtype in dtypes:
        wanted, found = (_results(op, function, dtype) for function in (getattr(plain, op), kernel))
        for (name, right), (_, mine) in zip(wanted, found):
            if mine.shape != right.shape:
                yield f"its {name} has shape {list(mine.shape)} in place of {list(right.shape)}"
            difference = float(np.abs(mine - right).max() / max(np.abs(right).max(), 1e-30))
            if not difference <= TOLERANCE[dtype]:  # written so that it holds for what is not a number
                yield f"its {name} differs by {difference:.0e} of the largest element from the plain one ({dtype})"


def _results(op: str, kernel: Kernel, dtype: DType) -> Results:
    with paddle.enable_grad():
        return list(CHECKS[op](kernel, _Numbers(dtype)))


class _Numbers:
    """Tensors drawn in a fixed order, the same for both operations; those of `leaf` get gradients."""

    def __init__(self, dtype: DType) -> None:
        self.dtype = dtype
        self.random = np.random.RandomState(0)

    def array(self, *shape: int) -> np.ndarray:
        return self.random.standard_normal(shape).astype(np.float32)

    def leaf(self, *shape: int) -> Tensor:
        x = paddle.to_tensor(self.array(*shape)).astype(self.dtype)
        x.stop_gradient = False
        return x


def _run(numbers: _Numbers, function: Kernel, *leaves: Tensor) -> Iterator[Tuple[str, np.ndarray]]:
    """The result of a differentiable function and the gradients of its arguments."""
    y = function(*leaves)
    yield "result", y.astype("float32").numpy()
    (y.astype("float32") * paddle.to_tensor(numbers.array(*y.shape))).sum().backward()
    for place, leaf in enumerate(leaves):
        if leaf.grad is None:
            raise _Fault(f"it gives no gradient {place}")
        yield f"gradient {place}", leaf.grad.astype("float32").numpy()


def _rms_norm(kernel: Kernel, numbers: _Numbers) -> Iterator[Tuple[str, np.ndarray]]:
    for width in (64, 40):
        yield from _run(numbers, lambda x, w: kernel(x, w, 1e-5, 1.0), numbers.leaf(2, 5, width), numbers.leaf(width))


def _layer_norm(kernel: Kernel, numbers: _Numbers) -> Iterator[Tuple[str, np.ndarray]]:
    for width in (64, 40):
        leaves = numbers.leaf(2, 5, width), numbers.leaf(width), numbers.leaf(width)
        yield from _run(numbers, lambda x, w, b: kernel(x, w, b, 1e-5), *leaves)


def _rotate(kernel: Kernel, numbers: _Numbers) -> Iterator[Tuple[str, np.ndarray]]:
    for interleaved, rows in ((False, 1), (True, 2)):
        angles = paddle.to_tensor(numbers.array(rows, 6, 1, 12))
        cos, sin = paddle.cos(angles), paddle.sin(angles)
        yield from _run(numbers, lambda x, c=cos, s=sin, i=interleaved: kernel(x, c, s, i), numbers.leaf(2, 6, 3, 24))


def _attention(kernel: Kernel, numbers: _Numbers) -> Iterator[Tuple[str, np.ndarray]]:
    documents = Documents(paddle.to_tensor([[0, 0, 0, 1, 1, 1, 1, 2, 2], [0, 0, 0, 0, 0, 0, 1, 1, 1]]))
    rules: Dict[str, Any] = {"window": 4, "slopes": np.array([0.5, 0.25, 0.1, 0.05], np.float32), "scale": 0.3}
    for options in ({}, {"documents": documents}, rules):
        leaves = numbers.leaf(2, 9, 4, 32), numbers.leaf(2, 9, 2, 32), numbers.leaf(2, 9, 2, 32)
        yield from _run(numbers, lambda q, k, v, o=options: kernel(q, k, v, **o), *leaves)


def _swiglu(kernel: Kernel, numbers: _Numbers) -> Iterator[Tuple[str, np.ndarray]]:
    whole = numbers.leaf(3, 74)  # two views of one tensor, as fused layers give them
    yield from _run(numbers, lambda x: kernel(x[:, :37], x[:, 37:]), whole)
    yield from _run(numbers, kernel, numbers.leaf(3, 37), numbers.leaf(3, 37))


def _linear(kernel: Kernel, numbers: _Numbers) -> Iterator[Tuple[str, np.ndarray]]:
    yield from _run(numbers, kernel, numbers.leaf(2, 5, 24), numbers.leaf(24, 40))
    yield from _run(numbers, kernel, numbers.leaf(7, 24), numbers.leaf(24, 40), numbers.leaf(40))


def _add_product(kernel: Kernel, numbers: _Numbers) -> Iterator[Tuple[str, np.ndarray]]:
    total, x, grad = paddle.to_tensor(numbers.array(24, 40)), numbers.leaf(7, 24).detach(), numbers.leaf(7, 40).detach()
    for _ in range(2):
        kernel(total, x, grad)
    yield "sum", total.numpy()


def _embedding(kernel: Kernel, numbers: _Numbers) -> Iterator[Tuple[str, np.ndarray]]:
    ids = paddle.to_tensor([[3, 1, 3, 0], [10, 3, 1, 1]])
    yield from _run(numbers, lambda weight: kernel(ids, weight), numbers.leaf(11, 24))


def _labels(count: int, columns: int) -> Tensor:
    labels = np.arange(count) * 7 % columns
    labels[1] = plain.IGNORED
    return paddle.to_tensor(labels)


def _cross_entropy(kernel: Kernel, numbers: _Numbers) -> Iterator[Tuple[str, np.ndarray]]:
    yield from _run(numbers, lambda x: kernel(x, _labels(5, 43)), numbers.leaf(5, 43))


def _head_loss(kernel: Kernel, numbers: _Numbers) -> Iterator[Tuple[str, np.ndarray]]:
    for transpose in (False, True):
        weight = numbers.leaf(*((43, 24) if transpose else (24, 43)))
        yield from _run(numbers, lambda x, w, t=transpose: kernel(x, w, _labels(9, 43), t), numbers.leaf(9, 24), weight)


def _adamw(kernel: Kernel, numbers: _Numbers) -> Iterator[Tuple[str, np.ndarray]]:
    gradient, moment1, moment2 = (paddle.to_tensor(numbers.array(3, 27)) for _ in range(3))
    weight = numbers.leaf(3, 27)
    moments = moment1, moment2.square()
    powers = tuple(paddle.to_tensor([power], "float32", place=paddle.CPUPlace()) for power in (0.81, 0.9025))
    rates: Dict[str, Any] = {"lr": 0.1, "betas": (0.9, 0.95), "epsilon": 1e-6}
    for decay, factor in ((0.1, 0.5), (0.0, 1.0)):
        with paddle.no_grad():
            kernel(weight, gradient.clone(), moments, powers, decay=decay, factor=factor, **rates)
    for name, x in zip(("weight", "moment 1", "moment 2", "power 1", "power 2"), (weight, *moments, *powers)):
        yield name, x.numpy().copy()


def _squared_norm(kernel: Kernel, numbers: _Numbers) -> Iterator[Tuple[str, np.ndarray]]:
    yield "sum", kernel(paddle.to_tensor(numbers.array(5, 21))).numpy()


CHECKS: Dict[str, Callable[[Kernel, _Numbers], Iterator[Tuple[str, np.ndarray]]]] = {
    "rms_norm": _rms_norm,
    "layer_norm": _layer_norm,
    "rotate": _rotate,
    "attention": _attention,
    "swiglu": _swiglu,
    "linear": _linear,
    "add_product": _add_product,
    "embedding": _embedding,
    "cross_entropy": _cross_entropy,
    "head_loss": _head_loss,
    "adamw": _adamw,
    "squared_norm": _squared_norm,
}
"""Op -> what gives its results, by name."""
