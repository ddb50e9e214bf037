"""Requests to end: SIGTERM, SIGINT and SIGUSR1, heeded where all ranks of the job agree to.

A signal may come at any moment and reach one rank only. While a program can save what it has done (`deferred`), the
signal is only noted, and the program asks at points that all ranks pass alike (`heed`). Elsewhere it does at once what
Ctrl-C does.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from threading import Thread
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, NoReturn, Optional, Tuple

if TYPE_CHECKING:
    from .group import Group
    from .topology import Topology

REPEATED = 2.0
"""Seconds within which a further signal is the same request: launchers send theirs several times."""

_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name)]
_heard: Dict[int, float] = {}
_interrupted_by = 0
_deferring: List[str] = []
_left_behind = False
_ranks: Optional[Tuple[Topology, Group]] = None


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
    """Take the signals over. Importing Paddle sets handlers that write a page about them: call this afterwards too."""
    for number in _SIGNALS:
        signal.signal(number, _hear)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Within the block a signal interrupts nothing; one that has come meanwhile does so at its end.

    For loading a library, which would not survive it, and which may set handlers of its own: the kernel keeps signals
    back, unless the process has threads that take them. Threads that are started within the block take none as long as
    they live.
    """
    masks = hasattr(signal, "pthread_sigmask")
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS) if masks else set()
    try:
        with deferred():
            yield
    finally:
        if masks:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if heard() and not _deferring:
        _interrupt(heard())


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
    global _interrupted_by, _left_behind
    _heard.clear()
    _interrupted_by, _left_behind = 0, False


def leave_behind() -> None:
    """A thread of this process waits for what may never come: the process is to end without waiting for it."""
    global _left_behind
    _left_behind = True


def has_left_behind() -> bool:
    """Whether it is."""
    return _left_behind


@contextlib.contextmanager
def deferred(doing: str = "") -> Iterator[None]:
    """Within the block a signal is noted and interrupts nothing, unless it is sent again after two seconds.

    Args:
        doing: what is interrupted where `heed` ends it, for the user: "during the evaluation".
    """
    _deferring.append(doing)
    try:
        yield
    finally:
        _deferring.pop()


def is_deferred() -> bool:
    """Whether signals are only noted at present."""
    return bool(_deferring)


def heed(ready: bool = True) -> bool:
    """End here if a signal has come; else whether all ranks are ready. Outside of `deferred` nothing is asked.

    Every rank calls this at the same point. It exchanges eight bytes in host memory and waits for no device.

    Raises:
        Agreed: on all ranks, since a signal has come to one of them; of several, the one of the highest number counts.
    """
    if not _deferring:
        return ready
    number, late = _everywhere(heard(), int(not ready))
    if number:
        raise Agreed(number, " ".join(filter(None, (f"stopped on {signal.Signals(number).name}", _deferring[-1]))))
    return not late


def _everywhere(*values: int) -> List[int]:
    """The largest value on any rank, of each."""
    global _ranks
    import paddle

    from .control import control_group
    from .topology import topology

    mesh = topology()
    if mesh.world.size == 1:
        return list(values)
    if _ranks is None or _ranks[0] is not mesh:
        _ranks = mesh, control_group("signals")
    own = paddle.to_tensor(values, "int32", place=paddle.CPUPlace())
    return [int(value) for value in _ranks[1].all_reduce(own, "max").wait().numpy()]


def _hear(number: int, frame: Any) -> None:
    """The handler of all of them."""
    now, first = time.monotonic(), min(_heard.values(), default=None)
    _heard.setdefault(number, now)
    again = first is not None and now - first > REPEATED and number != getattr(signal, "SIGUSR1", None)
    if again or not _deferring:
        _interrupt(number)


def _interrupt(number: int) -> NoReturn:
    global _interrupted_by
    _interrupted_by = number
    raise Stopped(number, "interrupted")
