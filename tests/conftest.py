"""Settings every test shares."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Iterator

import pytest

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(ROOT))


@pytest.fixture(scope="module", autouse=True)
def _float32_again() -> Iterator[None]:
    """The precision that the tests of a file have set ends with the file: a process runs several files."""
    yield
    precision = sys.modules.get("paddlenlp.nn.precision")
    if precision is not None:
        precision.set_precision(precision.Precision())
