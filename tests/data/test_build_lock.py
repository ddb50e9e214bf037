"""The lock of the index cache: one owner, dead ones recognised, nothing lost to two that take over at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from paddlenlp.data import build_lock
from paddlenlp.data.build_lock import SILENCE, LockFile

HOLD = """
import sys
sys.path[:0] = {path!r}
from paddlenlp.data.build_lock import LockFile
with LockFile(sys.argv[1]).take() as lock:
    print(lock._helper.pid, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "index.lock")


@pytest.fixture
def holder(path):
    """A process that holds the lock; `helper` is the number of the one that gives its signs of life."""
    command, pipe = [sys.executable, "-c", HOLD.format(path=sys.path), path], subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
    process.helper = int(process.stdout.readline())
    yield process
    process.kill()
    process.communicate()


def elsewhere(monkeypatch):
    """See this process's locks and others' as those of other hosts."""
    host = build_lock.host_identity()
    monkeypatch.setattr(build_lock, "host_identity", lambda: "another-host " + host)


def until(condition):
    """Wait for something to become true."""
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.02)


class Clock:
    """The time by which this process judges the signs of life of others; it moves as the test says."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


def test_one_at_a_time(path):
    with LockFile(path).take() as lock:
        assert lock.held()
        other = LockFile(path)
        assert other.take() is None and not other.dead
        assert other.owner.startswith(f"process {os.getpid()} on ")
    assert not os.path.exists(path) and not lock.held()
    with LockFile(path).take():
        pass


def test_an_owner_that_was_killed_is_dead_at_once(path, holder):
    lock = LockFile(path)
    assert lock.take() is None
    holder.kill()
    until(lambda: lock.look() and lock.dead)  # also while it is a zombie
    with lock.take() as taken:
        assert taken.held()
    assert os.listdir(os.path.dirname(path)) == []


def test_a_number_used_again_is_not_the_owner(path):
    with LockFile(path).take():
        owner = json.loads(Path(path).read_text())
    for start, dead in (("1", True), (owner["start"], False), ("", False)):
        Path(path).write_text(json.dumps({**owner, "start": start}))
        lock = LockFile(path)
        assert lock.look() and lock.dead is dead


def test_an_owner_on_another_host_lives_while_it_gives_signs(path, holder, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(build_lock, "time", clock)
    elsewhere(monkeypatch)
    lock = LockFile(path)
    for _ in range(3):
        assert lock.look() and not lock.dead
        seen = os.stat(path).st_mtime_ns
        until(lambda: os.stat(path).st_mtime_ns != seen)  # noqa: B023
        clock.now += 0.9 * SILENCE
    holder.kill()
    until(lambda: build_lock._start_of(holder.helper) is None)  # the signs end with their process
    assert lock.look() and not lock.dead
    clock.now += 0.9 * SILENCE
    assert lock.look() and not lock.dead
    clock.now += 0.2 * SILENCE
    assert lock.look() and lock.dead
    lock.take().__exit__()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": "x", "process": "y", "start": ""}'])
def test_a_lock_that_was_not_written_whole_ends_too(path, monkeypatch, content):
    Path(path).write_text(content)
    lock = LockFile(path)
    assert lock.take() is None and not lock.dead
    monkeypatch.setattr(build_lock, "SILENCE", -1.0)
    with lock.take() as taken:
        assert taken.held()


def test_a_lock_taken_meanwhile_is_put_back(path, holder, monkeypatch):
    """Two find the same owner dead. The slower one moves the lock of the quicker one aside, and notices."""
    slow, quick = LockFile(path), LockFile(path)
    holder.kill()
    holder.wait()
    assert slow.look() and slow.dead
    with quick.take() as taken:
        assert not slow._move_aside()
        assert taken.held()
    assert os.listdir(os.path.dirname(path)) == []


def test_an_owner_that_lost_its_lock_leaves_the_new_one(path):
    with LockFile(path).take() as lock:
        Path(path).write_text("another's")
        assert not lock.held()
    assert Path(path).read_text() == "another's"


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        LockFile(str(tmp_path / "missing" / "lock")).take()
