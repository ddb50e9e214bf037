"""How connections between ranks come about: every rank listens, and of two the higher one connects."""

from __future__ import annotations

import errno
import socket
import struct
import threading
import time
from contextlib import suppress
from functools import partial
from typing import Callable, Set

from paddlenlp.utils.errors import UsageError

from .transport_job import Job, Refused, answer, greet, welcome

BIND_SECONDS = 60.0
"""For how long to try again when another program holds the port that the launcher chose."""

GREETING_SECONDS = 60.0
"""How long a caller may take to say who it is."""

_CALLERS = 64
"""So many greetings are heard at once; whoever comes on top is turned away and comes again."""


class Meeting:
    """This rank's part in connecting the ranks of the job.

    Args:
        job: the ranks.
        met: called with a peer and the connection to it, from some thread. The listening side calls it before the
            other may send; it says false to turn down a second connection to the same peer.
        trouble: told why a peer could not be reached, again and again while that is so.
    """

    def __init__(
        self, job: Job, met: Callable[[int, socket.socket], bool], trouble: Callable[[int, str], None]
    ) -> None:
        self._job, self._met, self._trouble = job, met, trouble
        self._over = threading.Event()
        self._callers: Set[threading.Thread] = set()
        self.listener = _listen(job)
        _thread("listen", self._listen)

    def reach(self, peer: int) -> None:
        """Connect to a lower rank, however long it takes to come up."""
        _thread(f"reach {peer}", partial(self._reach, peer))

    def end(self) -> None:
        """No more connections."""
        self._over.set()
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self.listener.close()

    def _listen(self) -> None:
        while not self._over.is_set():
            try:
                connection, _ = self.listener.accept()
            except OSError:  # out of descriptors, the caller gone already, or the listener closed
                self._over.wait(0.05)
                continue
            self._callers = {thread for thread in self._callers if thread.is_alive()}
            if len(self._callers) >= _CALLERS:
                connection.close()
            else:
                self._callers.add(_thread("greeting", partial(self._hear, connection)))

    def _hear(self, connection: socket.socket) -> None:
        try:
            peer = answer(connection, self._job, GREETING_SECONDS)
            connection.settimeout(GREETING_SECONDS)
            welcome(connection)
            if self._met(peer, connection):
                return
        except (Refused, OSError):
            pass
        connection.close()

    def _reach(self, peer: int) -> None:
        pause = 0.02
        while not self._over.is_set():
            connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            try:
                _connect(connection, self._job.addresses[peer])
                greet(connection, self._job, peer)
                self._met(peer, connection)
                return
            except (Refused, OSError) as error:
                connection.close()
                self._trouble(peer, f"{self._job.place(peer)}: {error}")
            self._over.wait(pause)
            pause = min(2 * pause, 0.5)


def _listen(job: Job) -> socket.socket:
    end = time.monotonic() + BIND_SECONDS
    while True:
        try:
            return socket.create_server(job.addresses[job.rank], backlog=128)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > end:
                raise UsageError(
                    f"Rank {job.rank} cannot listen at {job.place(job.rank)}, where the launcher tells the others to "
                    f"find it: {error.strerror or error}. If the address is not one of this machine, give the launcher "
                    "the right one with --host; if another program has the port, start again."
                ) from None
            time.sleep(0.1)


def _connect(connection: socket.socket, address: object) -> None:
    # The port this end gets may be one that a rank still to come will listen on; with this it still can.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    connection.settimeout(20)
    connection.connect(address)  # type: ignore[arg-type]
    if connection.getsockname() == connection.getpeername():
        # Nobody listens there yet, and the kernel has given this end the very port it calls: it talks to itself.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise Refused("nobody listens there yet")


def _thread(name: str, run: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=run, name=f"ranks: {name}", daemon=True)
    thread.start()
    return thread
