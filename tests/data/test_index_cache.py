"""Index files: the reference's names, good ones reused, bad ones built again, waiting and failing with a message."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest

from paddlenlp.data import index_cache as module
from paddlenlp.data.index_cache import IndexCache, is_index_builder
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.log import logger

ARRAYS = {"a": np.arange(5), "b": np.ones((2, 2), np.int32)}


def problem(arrays):
    return None if np.array_equal(arrays["a"], np.arange(5)) else "a is not 0 to 4"


def cache(*folders):
    return IndexCache("what it is\n", ("a", "b"), [str(folder) for folder in folders], problem)


class Build:
    """Counts how often it is asked to build."""

    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return ARRAYS


def test_names_and_contents(tmp_path):
    built = Build()
    arrays = cache(tmp_path / "new" / "folder").load_or_build(built)
    name = hashlib.md5(b"what it is\n").hexdigest()
    folder = tmp_path / "new" / "folder"
    assert sorted(os.listdir(folder)) == [f"{name}.dsc", f"{name}_a.npy", f"{name}_b.npy"]
    assert (folder / f"{name}.dsc").read_bytes() == b"what it is\n"
    assert np.array_equal(np.load(folder / f"{name}_b.npy"), ARRAYS["b"]) and np.array_equal(arrays["a"], ARRAYS["a"])
    cache(folder).load_or_build(built)
    assert built.calls == 1


def test_first_folder_wins_and_the_last_is_written(tmp_path):
    beside, given = tmp_path / "index-cache", tmp_path / "data_cache"
    built = Build()
    cache(beside, given).load_or_build(built)
    assert not beside.exists() and len(os.listdir(given)) == 3
    cache(beside).load_or_build(built)
    assert built.calls == 2
    given.rename(tmp_path / "gone")
    cache(beside, given).load_or_build(built)
    assert built.calls == 2 and not given.exists()


def zero_body(path):
    size = os.path.getsize(path)
    os.truncate(path, 128)
    os.truncate(path, size)


DAMAGE = {
    "truncated": ("_a.npy", lambda path: os.truncate(path, 150), "cannot be read"),
    "header only half": ("_a.npy", lambda path: os.truncate(path, 40), "cannot be read"),
    "empty": ("_a.npy", lambda path: os.truncate(path, 0), "cannot be read"),
    "zero-filled": ("_a.npy", zero_body, "does not fit: a is not 0 to 4"),
    "object array": ("_a.npy", lambda path: np.save(path, np.array([{}])), "cannot be read"),
    "other description": (".dsc", lambda path: os.truncate(path, 3), "does not hold the description"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_files_are_built_again_with_the_reason(tmp_path, monkeypatch, name):
    suffix, damage, reason = DAMAGE[name]
    seen, built = [], Build()
    monkeypatch.setattr(logger, "warning", seen.append)
    cache(tmp_path).load_or_build(built)
    damage(str(tmp_path / (cache(tmp_path).hash + suffix)))
    arrays = cache(tmp_path).load_or_build(built)
    assert built.calls == 2 and problem(arrays) is None
    assert len(seen) == 1 and reason in seen[0] and "built again" in seen[0]


def test_missing_files_are_built_again(tmp_path):
    for suffix in (".dsc", "_a.npy", "_b.npy"):
        built = Build()
        cache(tmp_path).load_or_build(built)
        (tmp_path / (cache(tmp_path).hash + suffix)).unlink()
        cache(tmp_path).load_or_build(built)
        assert len(os.listdir(tmp_path)) == 3


def test_a_bad_set_is_passed_over_for_a_good_one(tmp_path, monkeypatch):
    seen, built = [], Build()
    monkeypatch.setattr(logger, "warning", seen.append)
    cache(tmp_path / "one").load_or_build(built)
    cache(tmp_path / "two").load_or_build(built)
    os.truncate(tmp_path / "one" / (cache().hash + "_a.npy"), 9)
    cache(tmp_path / "one", tmp_path / "two").load_or_build(built)
    assert built.calls == 2 and "It is not used." in seen[0]


def test_a_folder_that_cannot_be_written_names_data_cache(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        UsageError, match=r"file/x: cannot write the index.*needs [\d,]+ bytes.*set --data_cache to a folder"
    ):
        cache(tmp_path / "file" / "x").load_or_build(Build())


def test_what_a_killed_builder_has_left_is_removed(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    left = tmp_path / f".{cache(tmp_path).hash}_a.npy.by-{socket.gethostname()}-{process.pid}.partial"
    left.write_text("half")
    cache(tmp_path).load_or_build(Build())
    assert not left.exists()


def test_a_disk_that_fills_up_within_an_array_is_noticed(tmp_path, monkeypatch):
    """NumPy's own way of writing to files would lose the end of a small array without a word."""

    class Full(io.FileIO):
        def write(self, data):
            if self.tell() >= 128:  # behind the header
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    def opened(path, mode="r", **options):
        return Full(path, mode) if "w" in mode else open(path, mode, **options)

    monkeypatch.setattr(module, "open", opened, raising=False)
    with pytest.raises(UsageError, match="No space left on device.*bytes are free"):
        cache(tmp_path).load_or_build(Build())


def test_an_interrupted_write_leaves_nothing_that_is_used(tmp_path, monkeypatch):
    def crash(path, text):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "atomic_write_text", crash)
    with pytest.raises(KeyboardInterrupt):
        cache(tmp_path).load_or_build(Build())
    monkeypatch.undo()
    built = Build()
    cache(tmp_path).load_or_build(built)
    assert built.calls == 1


def test_an_array_that_does_not_fit_is_never_handed_out(tmp_path):
    with pytest.raises(UsageError, match="The index just written cannot be used: .*a is not 0 to 4"):
        cache(tmp_path).load_or_build(lambda: {**ARRAYS, "a": np.zeros(5)})


def test_others_wait_for_the_builder(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_POLL_SECONDS", 0.01)
    writer = threading.Timer(0.05, lambda: cache(tmp_path).load_or_build(Build()))
    writer.start()
    arrays = cache(tmp_path).load_or_build(lambda: pytest.fail("built by a waiter"), is_builder=False)
    writer.join()
    assert problem(arrays) is None


def test_waiting_ends_with_what_was_awaited(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.03)
    name = cache().hash
    with pytest.raises(UsageError, match=rf"in vain for \S*one/{name}.dsc or \S*two/{name}.dsc.*--share_folder true"):
        cache(tmp_path / "one", tmp_path / "two").load_or_build(Build(), is_builder=False)


@pytest.mark.parametrize(
    "trainer, in_node, share_folder, builds",
    [("0", "0", True, True), ("0", "0", False, True), ("8", "0", True, False), ("8", "0", False, True)]
    + [("1", "1", True, False), ("1", "1", False, False)],
)
def test_who_builds(monkeypatch, trainer, in_node, share_folder, builds):
    monkeypatch.setenv("PADDLE_TRAINER_ID", trainer)
    monkeypatch.setenv("PADDLE_RANK_IN_NODE", in_node)
    assert is_index_builder(share_folder) is builds
