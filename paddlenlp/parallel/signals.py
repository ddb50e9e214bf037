"""Requests to end: SIGTERM, SIGINT and SIGUSR1, heeded where all ranks of the job agree to.

A signal may come at any moment and reach one rank only. While a program can save what it has done (`deferred`), the
signal is only noted, and the program asks `agreed` at points that all ranks pass alike. Elsewhere it does at once what
Ctrl-C does.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from threading import Thread
from typing import Any, Dict, Iterator

REPEATED = 2.0
"""Seconds within which a further signal is the same request: launchers send theirs several times."""

_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name)]
_heard: Dict[int, float] = {}
_interrupted_by = 0
_deferring = False


class Stopped(KeyboardInterrupt):
    """This process ends because a signal asked for it.

    Args:
        number: of the signal.
        text: what the user is told.
    """

    def __init__(self, number: int, text: str) -> None:
        super().__init__(text)
        self.number = number


class Agreed(Stopped):
    """All ranks end at the same point, because a signal asked one of them to."""


def listen() -> None:
    """Take the signals over. Importing Paddle sets a handler that writes a page about them: call this afterwards."""
    for number in _SIGNALS:
        signal.signal(number, _hear)


def leave_to_parent() -> None:
    """In a process that loads data, heed no signal but the SIGTERM by which its parent ends it.

    Launchers and terminals signal whole process groups, and the step under way still needs its data.
    """
    for number in _SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # elsewhere nothing tells who sent it
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        Thread(target=_wait_for_parent, args=(os.getppid(),), daemon=True).start()


def _wait_for_parent(parent: int) -> None:
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent:
        pass
    os._exit(0)


def heard() -> int:
    """The first signal that reached this process, by number; 0 if there was none."""
    return next(iter(_heard), 0)


def interrupted_by() -> int:
    """The signal, by number, that has raised `Stopped` in this process; 0 if none has.

    Raised within the backward pass of a PyLayer, it becomes another exception on its way through Paddle.
    """
    return _interrupted_by


def forget() -> None:
    """Begin anew: no signal has come."""
    global _interrupted_by
    _heard.clear()
    _interrupted_by = 0


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Within the block a signal is noted and interrupts nothing, unless it is sent again after two seconds."""
    global _deferring
    before, _deferring = _deferring, True
    try:
        yield
    finally:
        _deferring = before


def agreed() -> int:
    """The highest number of a signal that has reached a rank of the job, on all of them; 0 if there was none.

    Every rank calls this at the same point.
    """
    import paddle

    from .topology import topology

    world = topology().world.group
    if world.size == 1:
        return heard()
    return int(world.all_reduce(paddle.to_tensor([heard()], "int32"), "max").wait())


def _hear(number: int, frame: Any) -> None:
    """The handler of all of them."""
    global _interrupted_by
    now, first = time.monotonic(), min(_heard.values(), default=None)
    _heard.setdefault(number, now)
    again = first is not None and now - first > REPEATED and number != getattr(signal, "SIGUSR1", None)
    if again or not _deferring:
        _interrupted_by = number
        raise Stopped(number, "interrupted")
