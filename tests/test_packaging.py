"""The distribution: its name, and that nothing a run needs is left out of the wheel."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = ("setup.py", "pyproject.toml", "README.md", "requirements.txt", "requirements-dev.txt")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """A wheel built from a copy of the tree (building writes beside setup.py)."""
    top = tmp_path_factory.mktemp("wheel")
    source = top / "source"
    shutil.copytree(ROOT / "paddlenlp", source / "paddlenlp", ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(top), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return zipfile.ZipFile(next(top.glob("*.whl")))


def test_the_wheel_is_named_paddlenlp(wheel: zipfile.ZipFile) -> None:
    metadata = next(name for name in wheel.namelist() if name.endswith("METADATA"))
    text = wheel.read(metadata).decode()
    assert "\nName: paddlenlp\n" in text
    assert "Requires-Dist: numpy" in text and 'paddlepaddle==3.3.1; extra == "cpu"' in text


def test_the_wheel_holds_every_file_of_the_package(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    wanted = [path for path in (ROOT / "paddlenlp").rglob("*") if path.suffix in (".py", ".json", ".typed")]
    assert [str(path.relative_to(ROOT)) for path in wanted if str(path.relative_to(ROOT)) not in names] == []
