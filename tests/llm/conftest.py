"""A tiny model, tokenizer and dataset on disk, and run_pretrain.py as a user starts it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import pytest

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent / "parallel")]

from launcher import Launch, hosts, started  # noqa: E402
from materials import arguments, write_materials, write_tokenizer  # noqa: E402
from ranks import ROOT  # noqa: E402

__all__ = ["hosts", "started"]

SCRIPT = str(ROOT / "llm/run_pretrain.py")


@pytest.fixture(scope="session")
def materials(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders model, tokenizer and data: 60 documents that count upwards, so that a model can learn them."""
    top = tmp_path_factory.mktemp("materials")
    write_materials(top)
    return top


@pytest.fixture
def retokenize(files: Path) -> Callable[[int], None]:
    """retokenize(size): put a tokenizer of `size` words in the place of the usual one."""

    def replace(size: int) -> None:
        shutil.rmtree(files / "tokenizer")
        write_tokenizer(files / "tokenizer", size)

    return replace


@pytest.fixture
def files(materials: Path, tmp_path: Path) -> Path:
    """A copy of the materials that the test may damage."""
    return Path(shutil.copytree(materials, tmp_path / "files"))


@pytest.fixture
def argument_file(files: Path, tmp_path: Path) -> Callable[..., Path]:
    """argument_file(**changes): `arguments` in a file."""

    def write(**changes: Any) -> Path:
        path = tmp_path / "config.json"
        path.write_text(json.dumps(arguments(files, tmp_path / "out", **changes), indent=1))
        return path

    return write


@pytest.fixture
def pretrain(argument_file: Callable[..., Path]) -> Callable[..., subprocess.CompletedProcess]:
    """pretrain(**changes): run_pretrain.py on these arguments, as a process of its own."""

    def write_and_run(environment: Optional[Dict[str, str]] = None, **changes: Any) -> subprocess.CompletedProcess:
        return run(argument_file(**changes), environment)

    return write_and_run


def run(config: Path, environment: Optional[Dict[str, str]] = None) -> subprocess.CompletedProcess:
    """run_pretrain.py on a file of arguments, as a process of its own."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
    return subprocess.run(
        [sys.executable, SCRIPT, str(config)], cwd=config.parent, env=env, capture_output=True, text=True
    )


@pytest.fixture(scope="session")
def run_once(
    materials: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Tuple[subprocess.CompletedProcess, Path]]:
    """run_once(**changes): a run that succeeds, for several tests to look at, and the folder where it wrote."""

    def write_and_run(**changes: Any) -> Tuple[subprocess.CompletedProcess, Path]:
        folder = tmp_path_factory.mktemp("once")
        files = shutil.copytree(materials, folder / "files")
        (folder / "config.json").write_text(json.dumps(arguments(files, folder / "out", **changes)))
        done = run(folder / "config.json")
        assert done.returncode == 0, done.stderr
        return done, folder / "out"

    return write_and_run


@pytest.fixture
def launch(argument_file: Callable[..., Path], tmp_path: Path, started: List[Launch]) -> Callable[..., Launch]:
    """launch(processes, **changes): run_pretrain.py by Paddle's launcher, under way in the folder tmp_path / name."""

    def start(
        processes: int, name: str = "job", options: Sequence[str] = (), prefix: Sequence[str] = (), **changes: Any
    ) -> Launch:
        options = options or ["--nproc_per_node", str(processes)]
        started.append(Launch(tmp_path / name, [SCRIPT, str(argument_file(**changes))], options, prefix))
        return started[-1]

    return start
