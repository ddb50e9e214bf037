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
from paddlenlp.data import index_record
from paddlenlp.data.index_cache import IndexCache, is_index_builder
from paddlenlp.data.streamed_array import StreamedArray
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
    files = [f"{name}.checked", f"{name}.dsc", f"{name}.json", f"{name}_a.npy", f"{name}_b.npy"]
    assert sorted(os.listdir(folder)) == files
    assert (folder / f"{name}.dsc").read_bytes() == b"what it is\n"
    assert np.array_equal(np.load(folder / f"{name}_b.npy"), ARRAYS["b"]) and np.array_equal(arrays["a"], ARRAYS["a"])
    cache(folder).load_or_build(built)
    assert built.calls == 1


def test_a_streamed_array_gives_the_same_files(tmp_path):
    whole = np.arange(300, dtype=np.int32).reshape(100, 3)
    blocks = ((low, whole[low : low + 7].astype(np.int64)) for low in range(0, 100, 7))
    streamed = StreamedArray(whole.shape, whole.dtype, lambda: blocks)
    for folder, array in (("whole", whole), ("streamed", streamed)):
        this = IndexCache("rows\n", ("a",), [str(tmp_path / folder)], lambda arrays: None)
        assert np.array_equal(this.load_or_build(lambda array=array: {"a": array})["a"], whole)
    for end in (".json", ".dsc", "_a.npy"):
        assert len({next((tmp_path / folder).glob(f"*{end}")).read_bytes() for folder in ("whole", "streamed")}) == 1
    assert streamed.nbytes == whole.nbytes


def test_a_streamed_array_that_ends_early_is_never_handed_out(tmp_path):
    short = StreamedArray((3,), np.dtype(np.int64), lambda: iter([(0, np.zeros(2, np.int64))]))
    with pytest.raises(UsageError, match="just built cannot be used: .*should hold 3 numbers"):
        cache(tmp_path).load_or_build(lambda: {**ARRAYS, "a": short})
    assert os.listdir(tmp_path) == []


def test_first_folder_wins_and_the_last_is_written(tmp_path):
    beside, given = tmp_path / "index-cache", tmp_path / "data_cache"
    built = Build()
    cache(beside, given).load_or_build(built)
    assert not beside.exists() and len(os.listdir(given)) == 5
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
    "truncated": ("_a.npy", lambda path: os.truncate(path, 150), "a has 150 bytes, expected 168"),
    "empty": ("_a.npy", lambda path: os.truncate(path, 0), "a has 0 bytes, expected 168: it was written in part"),
    "zero-filled": ("_a.npy", zero_body, "a holds nothing but zeros from byte 128 on"),
    "other content": ("_a.npy", lambda path: np.save(path, np.arange(5) + 1), "content of a is not what was written"),
    "other description": (".dsc", lambda path: os.truncate(path, 3), "does not hold the description"),
    "half a set": ("_b.npy", os.unlink, "is not complete: "),
}

WITHOUT_RECORD = {
    "truncated": (lambda path: os.truncate(path, 150), "cannot be read"),
    "header only half": (lambda path: os.truncate(path, 40), "cannot be read"),
    "empty": (lambda path: os.truncate(path, 0), "cannot be read"),
    "zero-filled": (zero_body, "has no record and does not fit: a is not 0 to 4"),
    "object array": (lambda path: np.save(path, np.array([{}])), "cannot be read"),
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


@pytest.mark.parametrize("name", WITHOUT_RECORD)
def test_arrays_of_the_reference_are_used_if_they_fit(tmp_path, monkeypatch, name):
    damage, reason = WITHOUT_RECORD[name]
    seen, built, this = [], Build(), cache(tmp_path)
    monkeypatch.setattr(logger, "warning", seen.append)
    for turn in range(2):
        (tmp_path / f"{this.hash}.dsc").write_text(this.desc)
        for part, array in ARRAYS.items():
            np.save(tmp_path / f"{this.hash}_{part}.npy", array)
        (tmp_path / f"{this.hash}.json").unlink(missing_ok=True)
        if turn:
            damage(str(tmp_path / f"{this.hash}_a.npy"))
        assert problem(this.load_or_build(built)) is None
        assert built.calls == turn and len(seen) == turn and (tmp_path / f"{this.hash}.json").is_file()
    assert reason in seen[0]


def test_large_arrays_are_read_whole_once_and_then_no_more(tmp_path, monkeypatch):
    """One byte is wrong where no block of the sample lies: found after a copy, which is new to this place."""
    large = {"a": np.arange(300_000), "b": ARRAYS["b"]}
    for folder in ("one", "two"):
        at = str(tmp_path / folder)
        this = IndexCache("large\n", ("a", "b"), [at], lambda arrays: None)
        this.load_or_build(lambda: large)
        read = []
        whole = index_record.sha256_file
        monkeypatch.setattr(
            index_record, "sha256_file", lambda path, whole=whole, read=read: read.append(path) or whole(path)
        )
        this.load_or_build(lambda: pytest.fail("built again"))
        assert not read
        path = tmp_path / folder / f"{this.hash}_a.npy"
        with open(path, "r+b") as file:
            file.seek(30_000)
            file.write(b"?" if folder == "two" else b"")
        os.utime(path)
        built = []
        arrays = this.load_or_build(lambda built=built: built.append(1) or large)
        assert read == [str(path)] and len(built) == (folder == "two")
        assert np.array_equal(arrays["a"], large["a"])
        monkeypatch.undo()


def test_an_index_of_other_data_or_settings_is_outdated(tmp_path, monkeypatch):
    seen, built, data = [], Build(), tmp_path / "data.idx"
    monkeypatch.setattr(logger, "warning", seen.append)
    for content, seed in ((b"1", 1), (b"1", 1), (b"1", 2), (b"2", 2)):
        data.write_bytes(content)
        with_facts(tmp_path, {"seed": seed}, {"idx_sha256": str(data)}).load_or_build(built)
    assert built.calls == 3 and "made for other data or settings: seed was 1, now 2. It is" in seen[0]
    assert "idx_sha256 was 6b86b273ff34fce" in seen[1] and len(seen) == 2
    monkeypatch.setattr(index_record, "VERSION", 99)
    with_facts(tmp_path, {"seed": 2}, {"idx_sha256": str(data)}).load_or_build(built)
    assert "version was 1, now 99" in seen[2]


def with_facts(folder, facts, sources=None, spare=None):
    return IndexCache("facts\n", ("a", "b"), [str(folder)], problem, facts, sources or {}, spare)


def read_only(monkeypatch, folder):
    """Let no file be made in `folder`."""
    make = os.open

    def refuse(path, flags, *more, **options):
        if os.path.dirname(str(path)) == str(folder) and flags & os.O_CREAT:
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return make(path, flags, *more, **options)

    monkeypatch.setattr(os, "open", refuse)


def test_the_spare_folder_is_used_where_the_data_is_read_only(tmp_path, monkeypatch):
    seen, built = [], Build()
    monkeypatch.setattr(logger, "info", seen.append)
    read_only(monkeypatch, tmp_path / "data")
    this = with_facts(tmp_path / "data", {}, spare=str(tmp_path / "out"))
    for _ in range(2):
        assert problem(this.load_or_build(built)) is None
    assert built.calls == 1 and len(os.listdir(tmp_path / "out")) == 5 and not os.listdir(tmp_path / "data")
    assert f"data cannot be written to (Read-only file system): the index goes to {tmp_path}/out" in seen[0]
    with pytest.raises(UsageError, match="Read-only file system.*set --data_cache"):
        with_facts(tmp_path / "data", {}).load_or_build(built)


def test_a_good_set_that_is_read_only_is_used(tmp_path, monkeypatch):
    """Also where it cannot be noted that it has been read whole."""
    with_facts(tmp_path, {}).load_or_build(Build())
    os.unlink(tmp_path / (with_facts(tmp_path, {}).hash + ".checked"))
    read_only(monkeypatch, tmp_path)
    arrays = with_facts(tmp_path, {}).load_or_build(lambda: pytest.fail("built again"))
    assert problem(arrays) is None


def test_missing_files_are_built_again(tmp_path):
    for suffix in (".dsc", "_a.npy", "_b.npy"):
        built = Build()
        cache(tmp_path).load_or_build(built)
        (tmp_path / (cache(tmp_path).hash + suffix)).unlink()
        cache(tmp_path).load_or_build(built)
        assert len(os.listdir(tmp_path)) == 5


def test_a_bad_set_is_passed_over_for_a_good_one(tmp_path, monkeypatch):
    seen, built = [], Build()
    monkeypatch.setattr(logger, "warning", seen.append)
    cache(tmp_path / "one").load_or_build(built)
    cache(tmp_path / "two").load_or_build(built)
    os.truncate(tmp_path / "one" / (cache(".").hash + "_a.npy"), 9)
    cache(tmp_path / "one", tmp_path / "two").load_or_build(built)
    assert built.calls == 2 and "It is not used." in seen[0]


def test_a_folder_that_cannot_be_written_names_data_cache(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        UsageError, match=r"file/x: cannot write the index.*bytes are free.*set --data_cache to a folder"
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

    monkeypatch.setattr(index_record, "open", opened, raising=False)
    with pytest.raises(UsageError, match=r"No space left on device.*needs [\d,]+ bytes, .*bytes are free"):
        cache(tmp_path).load_or_build(Build())


def test_an_interrupted_write_leaves_nothing_that_is_used(tmp_path, monkeypatch):
    rename = os.replace

    def crash(source, target):
        if str(target).endswith("_b.npy"):
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        cache(tmp_path).load_or_build(Build())
    monkeypatch.undo()
    assert os.listdir(tmp_path) == [f"{cache(tmp_path).hash}_a.npy"]
    built = Build()
    cache(tmp_path).load_or_build(built)
    assert built.calls == 1


def test_an_array_that_does_not_fit_is_never_handed_out(tmp_path):
    with pytest.raises(UsageError, match="The index just built cannot be used: .*a is not 0 to 4"):
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
    name = cache(tmp_path).hash
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
