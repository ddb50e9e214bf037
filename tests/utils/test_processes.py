"""Names of processes, and what those that have ended leave."""

import os
import socket
import subprocess
import sys

import pytest

from paddlenlp.utils.files import atomic_path, atomic_write_text, remove_partial_files
from paddlenlp.utils.processes import has_ended, process_name

HOST = socket.gethostname()


@pytest.fixture(scope="module")
def dead_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_only_of_this_host_it_is_known_that_a_process_has_ended(dead_pid):
    assert process_name() == f"{HOST}-{os.getpid()}"
    assert has_ended(f"{HOST}-{dead_pid}") is True
    for unknown in (process_name(), f"{HOST}-{os.getppid()}", f"{HOST}-1", f"far.away-{dead_pid}", "x", "x-y"):
        assert has_ended(unknown) is None, unknown
    assert has_ended(f"{HOST}-{2**70}") is None


def test_what_a_dead_process_was_writing_is_removed(tmp_path, monkeypatch, dead_pid):
    kept = [".model.safetensors.by-far.away-7.partial", f".a.by-{HOST}-{os.getppid()}.partial", ".b.partial", "c.txt"]
    for name in kept:
        (tmp_path / name).write_text("")

    class Killed(BaseException):
        pass

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr("paddlenlp.utils.files.process_name", lambda: f"{HOST}-{dead_pid}")
        patched.setattr("pathlib.Path.unlink", lambda path: None)
        with atomic_path(tmp_path / "model-00001-of-00002.safetensors") as partial:
            partial.write_text("half")
            raise Killed
    assert partial.exists()
    remove_partial_files(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(kept)
    remove_partial_files(tmp_path, lambda name: name == "far.away-7")
    assert sorted(os.listdir(tmp_path)) == sorted(kept[1:])


def test_a_file_that_is_being_written_stays(tmp_path):
    with atomic_path(tmp_path / "a.json") as partial:
        partial.write_text("{}")
        remove_partial_files(tmp_path)
        assert partial.exists()
    atomic_write_text(tmp_path / "a.json", "[]")
    assert os.listdir(tmp_path) == ["a.json"]
