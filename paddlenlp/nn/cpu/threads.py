"""Run parts of an operation at once: most of Paddle's CPU kernels use one thread, whatever OMP_NUM_THREADS says.

Paddle releases Python's lock inside its operations, so ordinary threads do. Inside a part, the libraries that would
start threads of their own (matrix products) use one.
"""

from __future__ import annotations

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Callable, List, Sequence, Tuple, TypeVar

import paddle
from paddle import Tensor

Part = TypeVar("Part")
Result = TypeVar("Result")

LIBRARIES = ("libs/libiomp5.so", "libs/libmklml_intel.so", "libgomp.so.1")
"""What starts threads inside Paddle's operations: files below Paddle's package, or names the loader knows."""


@lru_cache(maxsize=1)
def count() -> int:
    """How many parts run at once: OMP_NUM_THREADS, which Paddle sets to 1 where it is not set."""
    return int(os.environ.get("OMP_NUM_THREADS") or 1)


def run(function: Callable[[Part], Result], parts: Sequence[Part]) -> List[Result]:
    """`[function(part) for part in parts]`, at once and without gradients. Parts must not call `run` themselves."""

    def quietly(part: Part) -> Result:
        with paddle.no_grad():
            return function(part)

    if count() == 1 or len(parts) == 1:
        return [quietly(part) for part in parts]
    return list(_pool(os.getpid(), count()).map(quietly, parts))


def spans(length: int) -> List[Tuple[int, int]]:
    """[0, length) in as many nearly equal (start, end) as run at once, none of them empty."""
    parts = max(1, min(count(), length))
    edges = [length * part // parts for part in range(parts + 1)]
    return list(zip(edges, edges[1:]))


def cut(x: Tensor, span: Tuple[int, int]) -> Tensor:
    """x[start:end] in the memory of x, or of its copy if x is a transposed view.

    Parts that run at once must not cut the same view: Paddle puts the copy in the place of the view, which is a race.
    """
    return x.contiguous()._slice(*span)


@lru_cache(maxsize=1)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """The threads of this process; a forked child has its own."""
    return ThreadPoolExecutor(threads, thread_name_prefix="kernel", initializer=_use_one_thread_inside)


def _use_one_thread_inside() -> None:
    package = Path(paddle.__file__).parent
    for name in LIBRARIES:
        try:
            library = ctypes.CDLL(str(package / name) if "/" in name else name)
        except OSError:
            continue
        for setter in ("omp_set_num_threads", "MKL_Set_Num_Threads_Local"):
            if hasattr(library, setter):
                getattr(library, setter)(1)
