"""What the tests of CPU operations share."""

from __future__ import annotations

import ctypes
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Iterator

import paddle
import pytest


@pytest.fixture(autouse=True)
def _on_a_cpu(external_ops: Path) -> None:
    paddle.set_device("cpu")


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let OpenMP use this many threads."""
    openmp = ctypes.CDLL(str(Path(paddle.__file__).parent / "libs/libiomp5.so"))
    before = openmp.omp_get_max_threads()
    openmp.omp_set_num_threads(count)
    try:
        yield
    finally:
        openmp.omp_set_num_threads(before)


@pytest.fixture
def threads() -> Callable[[int], object]:
    return _threads
