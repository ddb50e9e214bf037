"""Settings every test shares."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Iterator, List

import pytest

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(ROOT))
# Hundreds of processes are started here: the first that imports a module compiles it for all of them.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

LONG = [
    "parallel/test_layouts_4.py",
    "parallel/test_layouts_8.py",
    "docs/test_commands.py",
    "parallel/test_capabilities.py",
    "parallel/test_layouts_2.py",
    "planning/test_kept.py",
    "faults/test_kill.py",
    "llm/test_launched.py",
    "parallel/test_bad_steps.py",
    "faults/test_soak.py",
    "planning/test_memory.py",
]
"""Files that take long, which begin first: one that began last would leave all workers but its own idle."""


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False  # else pytest-xdist begins with the files of many tests


def pytest_collection_modifyitems(items: List[pytest.Item]) -> None:
    places = {ROOT / "tests" / name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path, len(LONG)))


@pytest.fixture(scope="module", autouse=True)
def _float32_again() -> Iterator[None]:
    """The precision that the tests of a file have set ends with the file: a process runs several files."""
    yield
    precision = sys.modules.get("paddlenlp.nn.precision")
    if precision is not None:
        precision.set_precision(precision.Precision())
