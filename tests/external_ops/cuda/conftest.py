"""The CUDA kernels, compiled once for all tests of this folder for the emulator on a CPU."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "benchmarks/cuda"))

import library  # noqa: E402


@pytest.fixture(scope="session")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library; its objects are beside it."""
    if sys.platform != "linux" or shutil.which("g++") is None:
        pytest.skip("the emulator needs Linux and g++")
    return library.build_emulated(tmp_path_factory.mktemp("emulated"))
