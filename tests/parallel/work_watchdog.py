"""Ranks of the watchdog's tests, without Paddle: they start at once."""

from __future__ import annotations

import os
import signal
import sys
import time
from threading import Thread
from typing import Any, Dict

from paddlenlp.parallel import failure
from paddlenlp.parallel.failure import run_as_rank
from paddlenlp.parallel.heartbeat import beat
from paddlenlp.parallel.transport import transport
from paddlenlp.parallel.transport_mail import Arrival, Slot
from paddlenlp.parallel.watchdog import watched

RANK, WORLD = (int(os.environ.get(f"PADDLE_TRAINER{name}", "0")) for name in ("_ID", "S_NUM"))
TIMEOUT = 2.0


def case(given: Dict[str, Any]) -> Any:
    """What `given["mode"]` names, on the ranks of `given["ranks"]`, while the others wait for the first of them."""
    result: Dict[str, Any] = {}

    failure.FAREWELL = 1.0

    def main() -> None:
        transport().connect(range(WORLD))
        meet()  # not watched: processes may take long to start
        with watched(given.get("timeout", TIMEOUT), WORLD):
            beat.step, culprits = 7, given["ranks"]
            with beat.phase("read-data"):
                meet()
            if RANK in culprits:
                globals()[given["mode"]]()
            meet()
            result["ended"] = RANK

    code = run_as_rank(main)
    if code:
        sys.exit(code)
    return result


_meetings = iter(range(1000))


def meet() -> None:
    """All ranks come here before one goes on."""
    number, connections = next(_meetings), transport()
    others = [rank for rank in range(WORLD) if rank != RANK]
    for rank in others:
        connections.send(rank, 1, number, 0, memoryview(b""))
    slots = [Slot((rank, 1, number), 0, memoryview(bytearray())) for rank in others]
    arrival = Arrival(slots)
    connections.expect(arrival)
    connections.wait([arrival], [], "barrier of group world", str)


def stops() -> None:
    """In the moment in which it enters a phase: no report tells of it."""
    with beat.phase("save"):
        os.kill(os.getpid(), signal.SIGSTOP)


def blocks() -> None:
    with beat.phase("read-data"):
        time.sleep(600)


def waits_for_a_stuck_thread() -> None:
    """The other thread has stopped, though the one that waits for it gives signs of life."""
    thread = Thread(target=time.sleep, args=(600,), daemon=True)
    thread.start()
    with beat.phase("save"), beat.delegated():
        while thread.is_alive():
            beat.note(FakeGroup, "broadcast")
            time.sleep(0.05)


class FakeGroup:
    calls, name, ranks = 0, "fake", (0, 1)


def keeps_the_interpreter() -> None:
    """No other Python thread of this process runs meanwhile."""
    import ctypes

    with beat.phase("forward-backward"):
        ctypes.PyDLL(None).sleep(600)


def works_long() -> None:
    """Longer than the timeout of 4 s in one phase, with progress, in another thread."""

    def work() -> None:
        for _ in range(60):
            time.sleep(0.1)
            beat.progress()

    thread = Thread(target=work)
    thread.start()
    with beat.phase("save"), beat.delegated():
        thread.join()


def disagree() -> None:
    """The ranks wait for each other, each for another frame."""
    arrival = Arrival([Slot(((RANK + 1) % WORLD, 2, RANK), 0, memoryview(bytearray()))])
    transport().expect(arrival)
    transport().wait([arrival], [], f"recv {RANK} of group pp", str)


def fails() -> None:
    raise ValueError("broken on purpose")
