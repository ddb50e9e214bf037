"""What setup.py of external_ops runs for a Paddle with and without CUDA, and what it says where it can't build.

The compilers are scripts that note how they are called; Paddle is a module with the little that setup.py asks it.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, List

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "slm/model_zoo/gpt-3/external_ops"
PADDLE = """
class version:
    full_version, commit = "3.9.1", "0123456789abcdef"
def is_compiled_with_cuda():
    return {cuda}
"""
COMPILER = """#!/bin/sh
echo "$0 $*" >> "$CALLS"
while [ $# -gt 1 ]; do
    if [ "$1" = -o ]; then : > "$2"; fi
    shift
done
"""
FAILS = "#!/bin/sh\necho 'sources.cc:7: error: no such thing' >&2\nexit 1\n"


class Machine:
    """A folder with a copy of the sources, a Paddle and compilers."""

    def __init__(self, top: Path) -> None:
        self.top, self.calls = top, top / "calls"
        shutil.copytree(SOURCE, top / "ops", ignore=shutil.ignore_patterns("build", "*.egg-info"))
        (top / "bin").mkdir()
        self.calls.touch()

    def paddle(self, cuda: bool) -> None:
        (self.top / "site/paddle").mkdir(parents=True)
        (self.top / "site/paddle/__init__.py").write_text(PADDLE.format(cuda=cuda))

    def program(self, name: str, text: str = COMPILER) -> Path:
        path = self.top / "bin" / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def build(self, **variables: Any) -> subprocess.CompletedProcess:
        command = [sys.executable, "setup.py", "build", "--build-lib", str(self.top / "lib")]
        kept = {name: value for name, value in os.environ.items() if name not in ("CXX", "CUDA_HOME", "CUDA_PATH")}
        own = {
            "PYTHONPATH": str(self.top / "site"),
            "CALLS": str(self.calls),
            "PATH": f"{self.top / 'bin'}:/usr/bin:/bin",
        }
        environment = {**kept, **own, **{name: str(value) for name, value in variables.items()}}
        return subprocess.run(command, cwd=self.top / "ops", env=environment, capture_output=True, text=True)

    def commands(self) -> List[List[str]]:
        return [shlex.split(line) for line in self.calls.read_text().splitlines()]


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def sources(commands):
    return {Path(word).name for words in commands for word in words if re.search(r"\.(cc|cu)$", word)}


def test_without_cuda_the_cpu_operations_are_built(machine):
    machine.paddle(cuda=False)
    done = machine.build(CXX=machine.program("compiler"))
    assert done.returncode == 0, done.stderr
    wanted = {path.name for kind in ("cpu", "paddle") for path in SOURCE.glob(f"csrc/{kind}/*.cc")}
    commands = machine.commands()
    assert sources(commands) == wanted and len(commands) == len(wanted) + 1
    assert not any("PADDLE_WITH_CUDA" in word for words in commands for word in words)
    library = machine.top / "lib/fused_layers/paddle_3.9.1_01234567.so"
    assert library.exists() and commands[-1][1:4] == ["-shared", "-o", str(library)]
    assert {path.name for path in (machine.top / "lib").iterdir()} == {"fused_layers", "fused_ln.py", "fast_ln.py"}


@pytest.mark.parametrize("architectures", ["", "86;100"])
def test_with_cuda_the_kernels_are_built_too(machine, architectures):
    machine.paddle(cuda=True)
    machine.program("nvcc")
    variables = {"CUDA_ARCHITECTURES": architectures} if architectures else {}
    done = machine.build(CXX=machine.program("compiler"), CUDA_HOME=machine.top, **variables)
    assert done.returncode == 0, done.stderr
    kernels = [words for words in machine.commands() if words[0].endswith("nvcc")]
    assert sources(kernels) == {path.name for path in SOURCE.glob("csrc/cuda/*.cu")}
    for words in kernels:
        targets = [word for word in words if word.startswith("-gencode")]
        names = architectures.split(";") if architectures else ["80", "90"]
        assert targets == [f"-gencode=arch=compute_{name},code=sm_{name}" for name in names]
    others = [words for words in machine.commands() if not words[0].endswith("nvcc")]
    assert all("-DPADDLE_WITH_CUDA" in words for words in others if "/csrc/paddle/" in " ".join(words))
    assert "-lcudart" in others[-1]


def test_no_paddle(machine):
    (machine.top / "site/paddle").mkdir(parents=True)
    (machine.top / "site/paddle/__init__.py").write_text("raise ImportError('libpaddle.so is torn')\n")
    done = machine.build()
    assert done.returncode and "cannot import paddle (libpaddle.so is torn)" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_compiler(machine):
    machine.paddle(cuda=False)
    done = machine.build(CXX="/nowhere/g++")
    assert done.returncode and "there is no C++ compiler (/nowhere/g++ is not in PATH)" in done.stderr
    assert "Training works without these operations" in done.stderr and "Traceback" not in done.stderr


def test_no_nvcc(machine):
    machine.paddle(cuda=True)
    done = machine.build(CXX=machine.program("compiler"), CUDA_HOME=machine.top / "no-cuda", PATH=machine.top / "bin")
    assert done.returncode and "this Paddle is a CUDA build, but nvcc is neither in PATH nor in" in done.stderr
    assert machine.commands() == [] and "Traceback" not in done.stderr


def test_a_compiler_that_fails_is_quoted(machine):
    machine.paddle(cuda=False)
    done = machine.build(CXX=machine.program("compiler", FAILS))
    assert done.returncode and "sources.cc:7: error: no such thing" in done.stderr
    assert "external_ops: this failed, see the messages above: " in done.stderr and "Traceback" not in done.stderr
