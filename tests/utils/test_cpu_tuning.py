"""Environment settings for Paddle's CPU build: set where right, never over the user's own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from paddlenlp.utils import cpu_tuning

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("OMP_WAIT_POLICY", "OMP_NUM_THREADS", "FLAGS_use_stride_kernel", "MKL_DEBUG_CPU_TYPE")
AMD = "vendor_id\t: AuthenticAMD\nflags\t\t: fpu sse avx avx2 fma\n"


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """An AMD machine with AVX2 and four cores, nothing set, Paddle not imported, memory settings recorded."""
    for name in (*NAMES, *cpu_tuning.MALLOC_VARIABLES, "PADDLE_LOCAL_SIZE"):
        monkeypatch.delenv(name, raising=False)
    info = tmp_path / "cpuinfo"
    info.write_text(AMD)
    monkeypatch.setattr(cpu_tuning, "CPUINFO", info)
    monkeypatch.setattr(cpu_tuning.os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(cpu_tuning, "version", not_installed)
    modules = {name: module for name, module in sys.modules.items() if name != "paddle"}
    monkeypatch.setattr(cpu_tuning, "sys", type("sys", (), {"modules": modules}))
    calls = []
    library = type("library", (), {"mallopt": staticmethod(lambda number, value: calls.append((number, value)) or 1)})
    monkeypatch.setattr(cpu_tuning.ctypes, "CDLL", lambda name: library)
    monkeypatch.setattr(cpu_tuning.platform, "libc_ver", lambda: ("glibc", "2.36"))
    yield info, calls
    for name in NAMES:
        os.environ.pop(name, None)


def not_installed(name):
    raise cpu_tuning.PackageNotFoundError(name)


def test_everything_is_set_on_an_amd_machine(machine):
    lines = cpu_tuning.apply_cpu_tuning()
    found = {name: os.environ.get(name) for name in NAMES}
    assert found == dict(zip(NAMES, ("PASSIVE", "4", "0", "5")))
    assert {f"{name}={value}" for name, value in found.items()} <= set(lines)
    assert machine[1] == [(-4, 0), (-1, 2**31 - 1), (-2, 1 << 28), (-8, 1)]
    assert lines[-1].startswith("mallopt M_MMAP_MAX=0 M_TRIM_THRESHOLD=")


@pytest.mark.parametrize("name", NAMES)
def test_what_the_user_has_set_stays(machine, monkeypatch, name):
    monkeypatch.setenv(name, "mine")
    lines = cpu_tuning.apply_cpu_tuning()
    assert os.environ[name] == "mine"
    assert not [line for line in lines if name in line]


@pytest.mark.parametrize("name", cpu_tuning.MALLOC_VARIABLES)
def test_memory_settings_of_the_user_stay(machine, monkeypatch, name):
    monkeypatch.setenv(name, "1")
    assert "mallopt" not in " ".join(cpu_tuning.apply_cpu_tuning())
    assert machine[1] == []


@pytest.mark.parametrize("text", [AMD.replace("AuthenticAMD", "GenuineIntel"), AMD.replace("avx2", ""), ""])
def test_the_path_of_mkl_is_left_alone_on_other_processors(machine, text):
    machine[0].write_text(text)
    cpu_tuning.apply_cpu_tuning()
    assert "MKL_DEBUG_CPU_TYPE" not in os.environ


def test_a_machine_without_cpuinfo(machine):
    machine[0].unlink()
    cpu_tuning.apply_cpu_tuning()
    assert "MKL_DEBUG_CPU_TYPE" not in os.environ


def test_memory_settings_are_for_glibc_only(machine, monkeypatch):
    monkeypatch.setattr(cpu_tuning.platform, "libc_ver", lambda: ("", ""))
    cpu_tuning.apply_cpu_tuning()
    assert machine[1] == []


def test_the_stride_flag_is_for_cpu_builds_only(machine, monkeypatch):
    monkeypatch.setattr(cpu_tuning, "version", lambda name: "3.3.1")
    cpu_tuning.apply_cpu_tuning()
    assert "FLAGS_use_stride_kernel" not in os.environ


@pytest.mark.parametrize("processes, threads", [("1", "4"), ("2", "2"), ("8", "1")])
def test_processes_share_the_cores(machine, monkeypatch, processes, threads):
    monkeypatch.setenv("PADDLE_LOCAL_SIZE", processes)
    cpu_tuning.apply_cpu_tuning()
    assert os.environ["OMP_NUM_THREADS"] == threads


def test_after_paddle_is_imported_only_memory_is_tuned(machine):
    cpu_tuning.sys.modules["paddle"] = object()
    lines = cpu_tuning.apply_cpu_tuning()
    assert not [name for name in NAMES if name in os.environ]
    assert "too late for MKL_DEBUG_CPU_TYPE=5: paddle is imported already" in lines
    assert len(machine[1]) == 4


def test_paddle_reads_the_settings():
    """In a fresh process: the module does not import Paddle, and Paddle, imported after it, has flag and threads."""
    code = (
        "import sys; from paddlenlp.utils.cpu_tuning import apply_cpu_tuning; apply_cpu_tuning();"
        "assert 'paddle' not in sys.modules; import os, paddle;"
        "print(paddle.get_flags('FLAGS_use_stride_kernel'), os.environ['OMP_NUM_THREADS'])"
    )
    environment = {name: value for name, value in os.environ.items() if name not in NAMES}
    environment["PYTHONPATH"] = str(ROOT)
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[-2] == f"{{'FLAGS_use_stride_kernel': False}} {threads}"
