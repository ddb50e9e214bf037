"""The operations of external_ops, built once for all tests (and again only when their sources change)."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

import pytest

from paddlenlp.utils.locks import LockedByOther, lock_file

SOURCE = Path(__file__).resolve().parents[2] / "slm/model_zoo/gpt-3/external_ops"


def fingerprint() -> str:
    """Of all sources and of the Paddle they are built for."""
    import paddle

    kinds = (".cc", ".h", ".inl", ".py")
    files = sorted(p for p in SOURCE.rglob("*") if p.suffix in kinds and "build" not in p.relative_to(SOURCE).parts)
    parts = [paddle.version.full_version, paddle.version.commit]
    parts += [f"{path.relative_to(SOURCE)}\n{path.read_text(encoding='utf-8')}" for path in files]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


@pytest.fixture(scope="session")
def external_ops() -> Path:
    """The folder of the modules fused_layers, fused_ln and fast_ln, which is in sys.path from now on."""
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("there is no C++ compiler")
    folder = Path(tempfile.gettempdir()) / f"external_ops-{os.getuid()}-{fingerprint()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    with open(folder / "lock", "a") as lock:
        wait_for(lock)
        build(folder)
    sys.path.insert(0, str(folder / "lib"))
    return folder / "lib"


def wait_for(lock: IO[str]) -> None:
    """Another process of these tests may be building."""
    while True:
        try:
            return lock_file(lock)
        except LockedByOther:
            time.sleep(0.2)


def build(folder: Path) -> None:
    """Into folder/lib, unless that is there. The copy of the sources keeps the checkout clean."""
    if (folder / "built").exists():
        return
    shutil.rmtree(folder / "source", ignore_errors=True)
    shutil.copytree(SOURCE, folder / "source", ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    command = [sys.executable, "setup.py", "-q", "build", "--build-lib", str(folder / "lib")]
    done = subprocess.run(command, cwd=folder / "source", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "built").touch()
