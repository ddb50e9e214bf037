"""Each check says ok of what is well, and warns or fails of what is not, with what to do about it."""

from __future__ import annotations

import errno
import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import paddle
import pytest

from paddlenlp.doctor import FAIL, OK, WARN, Finding, devices, job, machine, software, storage
from paddlenlp.doctor.finding import carry_out
from paddlenlp.parallel.group import SoloGroup, done
from paddlenlp.utils.machine import CGROUPS, Memory, memory_of_host

ROOT = Path(__file__).resolve().parents[2]
GIB = 1 << 30


def is_(found, state, *words):
    """One finding of this state, that says these words, and what to do if something is to be done."""
    assert found.state == state, found
    assert all(word in found.found + found.advice for word in words), found
    assert bool(found.advice) == (state != OK), found


def test_a_check_that_can_t_be_carried_out_is_a_failure_and_not_the_end():
    def looks_at_nothing():
        raise KeyError("x")

    (found,) = carry_out(looks_at_nothing)
    is_(found, FAIL, "KeyError", "could not be checked")
    assert found.check == "looks at nothing"


def test_lines():
    assert Finding("disk", OK, "fine").line() == "ok    disk             fine"
    first, second = Finding("disk", WARN, "slow", "Buy one.", "rank 1 on b").line().splitlines()
    assert first == "warn  disk             slow [rank 1 on b]" and second.strip() == "-> Buy one."


class TestSoftware:
    def test_the_ranges_are_those_of_the_package(self):
        told = re.search(r'python_requires=">=3\.(\d+),<3\.(\d+)"', (ROOT / "setup.py").read_text())
        assert tuple((3, int(minor)) for minor in told.groups()) == software.PYTHON
        assert f"paddlepaddle=={software.PADDLE_TESTED}\n" in (ROOT / "requirements.txt").read_text()

    def test_python(self, monkeypatch):
        is_(software.python(), OK, sys.executable)
        for version in ((3, 8, 19), (3, 13, 0)):
            monkeypatch.setattr(software.sys, "version_info", version)
            is_(software.python(), FAIL, "Python 3.9 to 3.12")

    def test_packages(self, monkeypatch):
        is_(software.packages(), OK, "numpy")
        monkeypatch.setitem(software.PACKAGES, "no_such_module", "no-such-distribution")
        is_(software.packages(), FAIL, "pip install no-such-distribution")

    def test_paddle(self, monkeypatch):
        is_(software.paddle(), OK, paddle.__version__)
        monkeypatch.setattr(software, "_builds", lambda: ["paddlepaddle 3.3.1", "paddlepaddle-gpu 3.3.1"])
        is_(software.paddle(), FAIL, "two builds", "uninstall")
        monkeypatch.setattr(software, "_builds", lambda: [])
        is_(software.paddle(), FAIL, "not installed", "pip install paddlepaddle==3.3.1")

    @pytest.mark.parametrize(("version", "state"), [("3.3.0", OK), ("3.2.2", WARN), ("2.6.2", FAIL), ("0.0.0", FAIL)])
    def test_releases_of_paddle(self, monkeypatch, version, state):
        monkeypatch.setattr(paddle, "__version__", version)
        assert software.paddle().state == state

    def test_a_paddle_that_does_not_load(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "paddle", None)
        is_(software.paddle(), FAIL, "does not load")


class TestMachine:
    @pytest.mark.parametrize(("available", "state"), [(64 * GIB, OK), (4 * GIB, WARN), (2 * GIB, FAIL)])
    def test_memory(self, monkeypatch, available, state):
        monkeypatch.setattr(machine, "memory_of_host", lambda: Memory(64 * GIB, available))
        is_(machine.memory(8), state, "GiB available of 64.0")

    def test_memory_that_is_not_told(self, monkeypatch):
        monkeypatch.setattr(machine, "memory_of_host", lambda: None)
        is_(machine.memory(1), WARN)

    def test_processors(self, monkeypatch):
        cores = len(os.sched_getaffinity(0))
        is_(machine.processors(1), OK)
        is_(machine.processors(cores + 1), WARN, f"{cores} for {cores + 1} processes")

    def test_shared_memory(self, monkeypatch, tmp_path):
        monkeypatch.setattr(machine, "SHARED", tmp_path)
        usage = SimpleNamespace(disk_usage=lambda _: (2 * GIB, 0, 2 * GIB))
        monkeypatch.setattr(machine, "shutil", usage)
        is_(machine.shared_memory(), OK, "2.00 GiB free")
        usage.disk_usage = lambda _: (GIB // 16, 0, GIB // 16)
        is_(machine.shared_memory(), WARN, "0.06 GiB", "--shm-size")
        monkeypatch.setattr(machine.os, "access", lambda *_: False)
        is_(machine.shared_memory(), FAIL, "chmod 1777")
        monkeypatch.setattr(machine, "SHARED", tmp_path / "none")
        is_(machine.shared_memory(), FAIL, "mount")

    @pytest.mark.parametrize(("limit", "state"), [(1 << 16, OK), (1024, WARN), (256, FAIL), (-1, OK)])
    def test_open_files(self, monkeypatch, limit, state):
        monkeypatch.setattr(machine.resource, "getrlimit", lambda _: (limit, resource.RLIM_INFINITY))
        is_(machine.open_files(8), state)

    def test_more_ranks_need_more_open_files(self, monkeypatch):
        monkeypatch.setattr(machine.resource, "getrlimit", lambda _: (8192, 8192))
        is_(machine.open_files(64), OK)
        is_(machine.open_files(4096), FAIL, "8192, and 4096 ranks need")


class TestMemoryOfHost:
    def test_the_limit_of_a_container_counts(self, monkeypatch, tmp_path):
        from paddlenlp.utils import machine as tested

        (tmp_path / "meminfo").write_text("MemTotal:  8388608 kB\nMemFree: 1 kB\nMemAvailable:  4194304 kB\n")
        monkeypatch.setattr(tested, "PROC", tmp_path)
        monkeypatch.setattr(tested, "CGROUPS", tmp_path)
        assert memory_of_host() == Memory(8 * GIB, 4 * GIB)
        (tmp_path / "memory.max").write_text(f"{2 * GIB}\n")
        (tmp_path / "memory.current").write_text(f"{GIB}\n")
        (tmp_path / "memory.stat").write_text(f"anon 3\ninactive_file {GIB // 2}\n")
        assert memory_of_host() == Memory(2 * GIB, 3 * GIB // 2, True)
        (tmp_path / "memory.max").write_text("max\n")
        assert memory_of_host() == Memory(8 * GIB, 4 * GIB)

    def test_none_where_it_is_not_told(self, monkeypatch, tmp_path):
        from paddlenlp.utils import machine as tested

        monkeypatch.setattr(tested, "PROC", tmp_path / "none")
        assert memory_of_host() is None and str(CGROUPS) == "/sys/fs/cgroup"


class TestOutputFolder:
    @pytest.fixture(autouse=True)
    def _fast_enough(self, monkeypatch):
        monkeypatch.setattr(storage, "SLOW", 0)

    def test_nothing_stays_behind(self, tmp_path):
        is_(storage.output_folder(str(tmp_path), 1 << 16), OK, "MiB/s", "right")
        is_(storage.output_folder(str(tmp_path / "not/yet"), 1 << 16), OK, "not/yet will be")
        assert not list(tmp_path.iterdir())

    def test_a_file_in_its_place(self, tmp_path):
        (tmp_path / "file").touch()
        is_(storage.output_folder(str(tmp_path / "file"), 1), FAIL, "is a file")

    @pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EIO])
    def test_a_disk_that_does_not_write(self, monkeypatch, tmp_path, number):
        def refuse(_):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(storage.os, "fsync", refuse)
        is_(storage.output_folder(str(tmp_path), 1 << 16), FAIL, os.strerror(number))
        assert not list(tmp_path.iterdir())

    def test_a_full_disk(self, monkeypatch, tmp_path):
        monkeypatch.setattr(storage, "free_bytes", lambda _: 100)
        is_(storage.output_folder(str(tmp_path), 1 << 16), FAIL, "No space left", "65,536 bytes")

    def test_other_bytes_than_were_written(self, monkeypatch, tmp_path):
        def rename(source, target):
            Path(source).rename(target)
            with open(target, "r+b") as file:
                file.seek(70_000)
                file.write(b"other bytes")

        monkeypatch.setattr(storage.os, "replace", rename)
        monkeypatch.setattr(storage, "_BLOCK", 1 << 15)
        is_(storage.output_folder(str(tmp_path), 1 << 17), FAIL, "from byte 65,536 on", "Don't trust")

    def test_a_rename_that_copies(self, monkeypatch, tmp_path):
        monkeypatch.setattr(storage.os, "replace", lambda source, target: target.write_bytes(source.read_bytes()))
        is_(storage.output_folder(str(tmp_path), 1 << 16), FAIL, "rename")

    def test_a_slow_disk(self, monkeypatch):
        monkeypatch.setattr(storage, "SLOW", 50 << 20)
        assert storage._rate("x", 1 << 26, 10.0, 1 << 40).state == WARN
        assert storage._rate("x", 1 << 26, 0.1, 1 << 40).state == OK


class TestInput:
    def test_data_that_is_there(self, tmp_path):
        for name in ("a.bin", "a.idx"):
            (tmp_path / name).write_bytes(b"x" * 100)
        is_(storage.input_data(str(tmp_path)), OK, "1 data set")

    def test_data_that_is_not(self, monkeypatch, tmp_path):
        is_(storage.input_data(str(tmp_path)), FAIL, "holds no dataset")
        is_(storage.input_data(str(tmp_path / "none")), FAIL, "is not a folder")
        (tmp_path / "a.idx").touch()
        monkeypatch.setattr(storage.os, "access", lambda *_: False)
        is_(storage.input_data(str(tmp_path)), FAIL, "can't be read", "a.idx")


A100 = devices.Card("NVIDIA A100-SXM4-80GB", "535.104", 81920, 4)


class TestGpus:
    @pytest.fixture
    def see(self, monkeypatch):
        """see(cards, built, usable): what the driver lists, and what Paddle can use."""

        def arrange(cards, built, usable):
            monkeypatch.setattr(devices, "cards", lambda: cards)
            monkeypatch.setattr(paddle, "is_compiled_with_cuda", lambda: built)
            monkeypatch.setattr(paddle.device.cuda, "device_count", lambda: usable)
            monkeypatch.setattr(paddle.version, "nccl", lambda: "2.21.5")

        return arrange

    def test_none(self, see):
        see(None, False, 0)
        is_(devices.gpus("gpu")[0], OK, "no NVIDIA driver")
        is_(devices.gpus("gpu:0")[0], FAIL, "device to cpu")

    def test_eight(self, see):
        see([A100] * 8, True, 8)
        found = devices.gpus("gpu")
        assert [one.state for one in found] == [OK] * 3
        is_(found[0], OK, "8 x NVIDIA A100-SXM4-80GB, 80 GiB, driver 535.104")
        is_(found[2], OK, "NCCL 2.21.5")

    def test_a_paddle_that_can_t_use_them(self, see):
        see([A100], False, 0)
        is_(devices.gpus("gpu")[0], WARN, "built without CUDA")
        is_(devices.gpus("gpu:0")[0], FAIL, "CUDA build")
        see([A100], True, 0)
        is_(devices.gpus("gpu")[0], FAIL, "driver may be too old")
        see([A100, A100], True, 1)
        is_(devices.gpus("gpu")[0], WARN, "Paddle can use 1")

    def test_different_or_occupied_ones(self, see):
        see([A100, A100._replace(name="NVIDIA H100", used=70000)], True, 2)
        found = devices.gpus("gpu")
        is_(found[0], WARN, "NVIDIA A100-SXM4-80GB, NVIDIA H100")
        is_(found[1], WARN, "in use on GPU 1")

    def test_a_build_without_nccl(self, see, monkeypatch):
        see([A100], True, 1)
        monkeypatch.setattr(paddle.version, "nccl", lambda: "0")
        is_(devices.gpus("gpu")[2], FAIL, "NCCL")

    def test_a_driver_that_does_not_answer(self, monkeypatch, tmp_path):
        program = tmp_path / "nvidia-smi"
        program.write_text("#!/bin/sh\necho 'Unable to determine the device handle: Unknown Error'\nexit 15\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        is_(devices.gpus("gpu")[0], FAIL, "Unable to determine", "dmesg")
        program.write_text("#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 550.90, 81559, 1'\n")
        assert devices.cards() == [devices.Card("NVIDIA H100 80GB HBM3", "550.90", 81559, 1)]


class TestProducts:
    def test_right(self):
        is_(devices.product(), OK, "TFLOP/s")

    def test_wrong(self, monkeypatch):
        right = paddle.matmul
        monkeypatch.setattr(paddle, "matmul", lambda a, b: right(a, b) * 1.001)
        is_(devices.product(), FAIL, "relative error", "do not train")
        monkeypatch.setattr(paddle, "matmul", lambda a, b: right(a, b) * float("nan"))
        is_(devices.product(), FAIL, "nan")


class TestFusedOperations:
    @pytest.mark.parametrize(
        ("loads", "agrees", "used", "state"),
        [
            (False, None, False, WARN),
            (True, False, False, WARN),
            (True, True, False, OK),
            (True, True, True, OK),
        ],
    )
    def test_states(self, loads, agrees, used, state):
        found = devices.operation(
            SimpleNamespace(
                op="rms_norm", module="fused_ln", built=True, loads=loads, agrees=agrees, used=used, reason="why"
            )
        )
        is_(found, state, "fused_ln")

    def test_each_that_is_built_has_a_line(self, monkeypatch):
        from paddlenlp.nn import kernels

        state = SimpleNamespace(op="a", module="one", built=True, loads=True, agrees=True, used=True, reason="")
        other = SimpleNamespace(op="b", module="two", built=False, loads=False, agrees=None, used=False, reason="")
        monkeypatch.setattr(kernels, "states", lambda: [state, other, other])
        found = devices.fused_operations()
        assert [one.check for one in found] == ["fused operations", "op a"]
        is_(found[0], OK, "not built: two (optional")
        monkeypatch.undo()
        assert len(devices.fused_operations()) >= 1


class Doubled(SoloGroup):
    """Two ranks, of which the other does what this one does."""

    size = property(lambda self: 2, lambda self, value: None)

    def _all_reduce(self, x, op):
        return done((x.astype("float32") * 2).astype(x.dtype))

    def _all_gather(self, x):
        x = x if x.shape else x.reshape([1])
        return done(paddle.concat([x, x]))

    def _barrier(self):
        pass


class TestJob:
    def test_clocks(self, monkeypatch):
        group = Doubled(ranks=(0, 1))
        is_(job.clocks(group, ["a", "b"]), OK, "within")
        for seconds, state in ((7.0, WARN), (-4000.0, FAIL)):
            monkeypatch.setattr(job, "everyones", lambda value, group, by=seconds: [value, value + by])
            is_(job.clocks(group, ["a", "b"]), state, "that of b is", "ahead" if seconds > 0 else "behind")

    def test_the_closest_round_counts(self, monkeypatch):
        offsets = iter([3.0, 0.2, 5.0, -0.1, 9.0])
        monkeypatch.setattr(job, "everyones", lambda value, group: [value, value + next(offsets)])
        is_(job.clocks(Doubled(ranks=(0, 1)), ["a", "b"]), OK, "0.100")

    def test_sums_that_are_wrong(self, monkeypatch):
        class Broken(Doubled):
            def _all_reduce(self, x, op):
                return done(x * float("inf")) if x.dtype == paddle.float16 else super()._all_reduce(x, op)

        found = job.sums(Broken(ranks=(0, 1)), ["a", "a"])
        assert len(found) == 1
        is_(found[0], FAIL, "float16: element 0 of the sum is inf, expected 2", "don't train")
        assert [one.state for one in job.sums(Doubled(ranks=(0, 1)), ["a", "a"])] == [OK, OK]

    def test_slow_exchange_between_hosts(self, monkeypatch):
        monkeypatch.setattr(job, "SLOW", 1e15)
        assert job._speed(Doubled(ranks=(0, 1)), ["a", "a"]).state == OK
        is_(job._speed(Doubled(ranks=(0, 1)), ["a", "b"]), WARN, "NCCL_SOCKET_IFNAME")


def test_nothing_of_it_needs_paddle_until_it_is_looked_at():
    code = "import sys, paddlenlp.doctor; print('paddle' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
