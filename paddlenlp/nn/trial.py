"""Tries things out in a child process: what ends that process, or never comes back, does no harm."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import resource
import select
import signal
import sys
import time
from typing import Callable, List, NamedTuple, Optional, Sequence, Tuple


class Attempt(NamedTuple):
    """What is tried.

    Attributes:
        run: returns "" if all is well, else a reason; may raise, and may end its process.
        needs: the place of an earlier attempt without whose success this one is not made.
    """

    run: Callable[[], str]
    needs: Optional[int] = None


SECONDS = 20.0
"""How long one attempt may take."""


def outcomes(attempts: Sequence[Attempt], apart: bool = True) -> List[str]:
    """What each attempt returned; in words what it raised, or how it ended its process. An attempt that was not made
    has the outcome of the one it needs.

    The child is a fork of this process: it has all that has been imported, so an attempt costs no more than it takes.

    Args:
        attempts: tried in order; if one ends the child, the later ones see nothing of what the earlier ones changed.
        apart: false tries them in this process. So does every system but Linux, where forks of a process with threads
            are not safe.
    """
    found: List[str] = []
    if not (apart and sys.platform == "linux"):
        for attempt in attempts:
            found.append(_outcome(attempt, found))
    while len(found) < len(attempts):
        found += _in_child(attempts, found)
    return found


def _outcome(attempt: Attempt, found: Sequence[str]) -> str:
    try:
        return (attempt.needs is not None and found[attempt.needs]) or attempt.run()
    except Exception as error:
        text = " ".join(str(error).split())
        return f"it raises {type(error).__name__}: {text[:200]}"


def _in_child(attempts: Sequence[Attempt], before: List[str]) -> List[str]:
    """The outcomes after those of `before`, up to and with the first that ended the child."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _answer(attempts, list(before), writing)
    os.close(writing)
    with open(reading, "rb", buffering=0) as pipe:
        found, in_time = _read(pipe.fileno(), len(attempts) - len(before))
    if not in_time:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if len(before) + len(found) < len(attempts):
        found.append(_end(status) if in_time else f"it takes more than {SECONDS:g} s")
    return found


def _answer(attempts: Sequence[Attempt], found: List[str], writing: int) -> None:
    """The life of the child; nothing of what it prints is seen."""
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)
        faulthandler.disable()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with open(os.devnull, "w", encoding="utf-8") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
            sys.stdout = sys.stderr = nowhere
            _work(attempts, found, writing)
    finally:
        os._exit(0)


def _work(attempts: Sequence[Attempt], found: List[str], writing: int) -> None:
    """Make the attempts, and write a line of JSON for each outcome."""
    for attempt in attempts[len(found) :]:
        found.append(_outcome(attempt, found))
        os.write(writing, json.dumps(found[-1]).encode() + b"\n")


def _read(pipe: int, count: int) -> Tuple[List[str], bool]:
    """(the outcomes that came, whether each came within its time)."""
    lines: List[str] = []
    rest, deadline = b"", time.monotonic() + SECONDS
    while len(lines) < count:
        with contextlib.suppress(InterruptedError):
            if not select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
                return lines, False
        data = os.read(pipe, 65536)
        if not data:
            return lines, True
        *whole, rest = (rest + data).split(b"\n")
        if whole:
            lines, deadline = lines + [json.loads(line) for line in whole], time.monotonic() + SECONDS
    return lines, True


def _end(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"it ended a trial process with {signal.Signals(os.WTERMSIG(status)).name}"
    return f"it ended a trial process with exit code {os.WEXITSTATUS(status)}"
