"""What counts as progress, what a process waits in, and what other processes can read of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from threading import Event, Thread
from typing import Any, Callable, Iterator

import pytest

from paddlenlp.parallel.heartbeat import Heartbeat, peek


class Group:
    calls = 0


@pytest.fixture
def beat() -> Heartbeat:
    return Heartbeat()


def moves(beat: Heartbeat, action: Callable[[], Any]) -> bool:
    before = beat.count
    action()
    return beat.count != before


@pytest.fixture
def elsewhere() -> Iterator[Callable[[Callable[[], Any]], Any]]:
    """elsewhere(action): carried out by another thread."""

    def run(action: Callable[[], Any]) -> None:
        thread = Thread(target=action)
        thread.start()
        thread.join()

    yield run


def test_what_is_progress(beat: Heartbeat) -> None:
    assert moves(beat, beat.progress)
    assert moves(beat, lambda: beat.enter("save"))
    assert moves(beat, lambda: beat.note(Group, "all_reduce"))
    assert moves(beat, lambda: setattr(beat, "step", 5))
    with beat.waiting("barrier", tuple):
        before = beat.count
    assert beat.count != before
    assert not moves(beat, beat.wait)


def test_phases_nest(beat: Heartbeat) -> None:
    beat.step = 3
    with pytest.raises(KeyError), beat.phase("evaluate"):
        with beat.phase("save"):
            assert beat.place == (3, "save")
        assert beat.place == (3, "evaluate")
        raise KeyError
    assert beat.place == (3, "start-up")


def test_waits_nest_and_are_the_training_thread_s(beat: Heartbeat, elsewhere: Any) -> None:
    def wait_elsewhere() -> None:
        with beat.waiting("broadcast", lambda: [7]):
            assert beat.wait() is None

    elsewhere(wait_elsewhere)
    with beat.waiting("reading", tuple):
        with beat.waiting("barrier", lambda: [2]):
            found = beat.wait()
            assert found is not None and (found.what, found.ranks()) == ("barrier", [2])
        assert beat.wait().what == "reading"  # type: ignore[union-attr]
    assert beat.wait() is None and not beat.waits


def test_while_another_thread_works_it_is_what_counts(beat: Heartbeat, elsewhere: Any) -> None:
    working = [True]
    with beat.delegated(lambda: working[0]):
        assert not moves(beat, lambda: beat.note(Group, "broadcast"))
        with beat.waiting("barrier", tuple):
            assert beat.wait() is None
        assert moves(beat, lambda: elsewhere(lambda: beat.note(Group, "send")))
        assert moves(beat, lambda: elsewhere(beat.progress))
        working[0] = False
        assert moves(beat, lambda: beat.note(Group, "broadcast"))
        with beat.waiting("barrier", tuple):
            assert beat.wait() is not None
    assert beat.operation == "broadcast"  # of the training thread


def test_a_helper_may_delegate_too(beat: Heartbeat) -> None:
    """The background save waits for the thread that writes, while the training thread waits for the save."""
    ready, over = Event(), Event()

    def save() -> None:
        with beat.delegated():
            beat.note(Group, "all_gather")
            with beat.waiting("all_gather", tuple):
                ready.set()
                over.wait(60)

    with beat.delegated():
        before = beat.count
        thread = Thread(target=save)
        thread.start()
        ready.wait(60)
        assert beat.count == before and beat.wait() is None
        over.set()
        thread.join()
    assert not moves(beat, lambda: None)


def test_a_helper_that_delegates_is_not_the_training_thread(beat: Heartbeat) -> None:
    ready, over = Event(), Event()

    def save() -> None:
        with beat.delegated():
            ready.set()
            over.wait(60)

    thread = Thread(target=save)
    thread.start()
    ready.wait(60)
    assert moves(beat, lambda: beat.note(Group, "all_reduce"))
    with beat.waiting("all_reduce", tuple):
        assert beat.wait() is not None
    over.set()
    thread.join()


CHILD = """
import os, signal, time
from paddlenlp.parallel.heartbeat import beat
beat.step = 11
beat.share()
print(*beat.page, flush=True)
with beat.phase("load checkpoint"):
    beat.step = 12
    if os.fork() == 0:
        beat.enter("of a child")
        os._exit(0)
    os.wait()
    os.kill(os.getpid(), signal.SIGSTOP)
"""


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="there is no such memory on this system")
def test_a_stopped_process_can_be_read() -> None:
    process = subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    page = [int(part) for part in process.stdout.readline().split()]
    try:
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        assert peek(page) == (12, "load checkpoint")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert peek(page) is None
