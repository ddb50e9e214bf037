"""Run a case and compare its results with float64."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Dict, Iterator, List

import numpy as np
from cases import Case, Expected
from floats import SMALLEST, STORED, UNIT, decode
from library import Buffer, Library

SLACK = 8.0
"""How many times the unit of float32 of the numbers that a result is the sum of may be lost."""


@contextmanager
def buffers(library: Library, case: Case, shift: int = 0) -> Iterator[Dict[str, Buffer]]:
    """The tensors of a case in device memory, results as NaN; all but the workspace `shift` elements into theirs."""
    made: Dict[str, Buffer] = {}
    try:
        for name, (stored, dtype) in case.inputs.items():
            made[name] = Buffer(library, stored, dtype, shift)
        for name, (shape, dtype) in case.results.items():
            if name not in made:
                empty = np.full(shape, 0x7FFF if dtype == "bfloat16" else np.nan, STORED[dtype])
                made[name] = Buffer(library, empty, dtype, shift)
        if case.workspace:
            made["workspace"] = library.workspace(library.size(*case.workspace))
        yield made
    finally:
        for buffer in made.values():
            buffer.free()


def arguments(case: Case, made: Dict[str, Buffer]) -> List[Any]:
    """What the launcher gets, the stream included."""
    return [made[x[1:]] if isinstance(x, str) and x.startswith("@") else x for x in case.arguments] + [None]


def results(library: Library, case: Case, shift: int = 0) -> Dict[str, np.ndarray]:
    """What the kernel makes of the case, as it is stored."""
    with buffers(library, case, shift) as made:
        library.call(f"launch_{case.kernel}", *arguments(case, made))
        library.call("harness_synchronize")
        return {name: made[name].read() for name in case.results}


def expected(case: Case) -> Dict[str, Expected]:
    """What float64 makes of the case."""
    return case.expected({name: decode(stored, dtype) for name, (stored, dtype) in case.inputs.items()})


def errors(case: Case, found: Dict[str, np.ndarray], right: Dict[str, Expected]) -> Dict[str, float]:
    """The greatest error of each result, as a share of what rounding allows: right up to 1."""
    assert right.keys() == case.results.keys()
    return {name: error(decode(found[name], dtype), right[name], dtype) for name, (_, dtype) in case.results.items()}


def same_bits(results: Dict[str, np.ndarray], others: Dict[str, np.ndarray]) -> bool:
    return all(results[name].tobytes() == others[name].tobytes() for name in results)


def error(found: np.ndarray, expected: Expected, dtype: str) -> float:
    """The greatest error as a share of what rounding to `dtype`, and addition in float32, may lose; inf for NaN."""
    if not found.size:
        return 0.0
    allowed = UNIT[dtype] * np.maximum(np.abs(expected.value), SMALLEST[dtype])
    allowed = allowed + SLACK * UNIT["float32"] * expected.size
    share = np.abs(found - expected.value) / allowed
    return float(share.max()) if np.isfinite(share).all() else float("inf")
