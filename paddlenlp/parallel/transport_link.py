"""One connection between two ranks: frames go out in order without blocking, and come in piece by piece."""

from __future__ import annotations

import socket
import struct
import threading
from collections import deque
from dataclasses import dataclass
from typing import Callable, Deque, Optional

DATA, GOODBYE, SEEN, FAILED = range(4)
"""Kinds of frames: a tensor; nothing follows; the goodbye was read; the sender failed (rank and reason follow)."""

COPIED = 1 << 16
"""Up to so many bytes are copied when the connection does not take them at once, so that nobody waits for it."""

_HEAD = struct.Struct("<BxxxIQQQ")


@dataclass(frozen=True)
class Head:
    """What precedes the bytes of a frame.

    Attributes:
        kind: DATA, GOODBYE, SEEN or FAILED.
        tag: what the sender is doing, to be compared with what the receiver expects.
        channel, number: which operation of which group; together with the sender they name the frame.
        size: bytes that follow.
    """

    kind: int
    tag: int
    channel: int
    number: int
    size: int

    def pack(self) -> bytes:
        """As it is sent."""
        return _HEAD.pack(self.kind, self.tag, self.channel, self.number, self.size)


class Parcel:
    """A frame on its way out."""

    def __init__(self, head: bytes, body: memoryview) -> None:
        self.parts = [memoryview(head), body] if len(body) else [memoryview(head)]
        self.out = False

    def advance(self, count: int) -> None:
        """The connection took `count` bytes."""
        while self.parts and count >= len(self.parts[0]):
            count -= len(self.parts.pop(0))
        if self.parts:
            self.parts[0] = self.parts[0][count:]
        else:
            self.out = True

    def detach(self) -> None:
        """Copy what is left if it is little: the memory it lies in may then change."""
        if sum(map(len, self.parts)) <= COPIED:
            self.parts = [memoryview(bytes(part)) for part in self.parts]


class Link:
    """The connection to one peer, before, while and after it exists.

    Frames given to it before the connection is there leave when it comes; those given after its end go nowhere, since
    who waits for an answer learns of the end anyway.

    Args:
        peer: rank at the other end.
        begin: gives the memory for the bytes of an arriving frame.
        arrive: called when a frame is complete.
    """

    def __init__(
        self, peer: int, begin: Callable[[int, Head], memoryview], arrive: Callable[[int, Head, memoryview], None]
    ) -> None:
        self.peer = peer
        self.socket: Optional[socket.socket] = None
        self.ended = False
        self.sent_bytes = 0
        self.trouble = "it has not connected yet"
        self._begin, self._arrive = begin, arrive
        self._queue: Deque[Parcel] = deque()
        self._lock = threading.Lock()
        self._head: Optional[Head] = None
        self._buffer = self._target = memoryview(bytearray(_HEAD.size))
        self._got = 0

    def attach(self, connection: socket.socket) -> None:
        """The connection is there."""
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _watch_for_vanished_hosts(connection)
        connection.setblocking(False)
        with self._lock:
            self.socket, self.trouble = connection, ""
            self._push()

    def send(self, head: Head, body: memoryview) -> Parcel:
        """Send a frame, as far as it goes without blocking; `push` sends the rest.

        `body` must not change before `out` of the parcel is true, except that little ones are copied.
        """
        parcel = Parcel(head.pack(), body)
        with self._lock:
            self._queue.append(parcel)
            if len(self._queue) == 1:
                self._push()
            if not parcel.out and len(body) <= COPIED:
                parcel.detach()
        return parcel

    def push(self) -> bool:
        """Send what the connection takes now; whether nothing is left."""
        with self._lock:
            self._push()
            return not self._queue

    @property
    def waiting(self) -> bool:
        """Whether frames are waiting to leave."""
        return bool(self._queue)

    def read(self) -> bool:
        """Take in what has arrived; false when the connection has ended."""
        assert self.socket is not None
        while True:
            try:
                count = self.socket.recv_into(self._target[self._got :])
            except BlockingIOError:
                return True
            except OSError:
                return False
            self._got += count
            if self._got < len(self._target):
                return count > 0
            self._turn()

    def close(self) -> None:
        """The connection has ended; what has not left is given up."""
        with self._lock:
            self.ended = True
            self._give_up()
            if self.socket is not None:
                self.socket.close()

    def _push(self) -> None:
        while self._queue and self.socket is not None and not self.ended:
            try:
                count = self.socket.sendmsg(self._queue[0].parts)
            except BlockingIOError:
                return
            except OSError:  # reading sees the end too, and reports it
                self._give_up()
                return
            self.sent_bytes += count
            self._queue[0].advance(count)
            if self._queue[0].out:
                self._queue.popleft()
        if self.ended:
            self._give_up()

    def _give_up(self) -> None:
        for parcel in self._queue:
            parcel.parts, parcel.out = [], True
        self._queue.clear()

    def _turn(self) -> None:
        """A head or the bytes of a frame are complete: the other follows."""
        if self._head is None:
            self._head = Head(*_HEAD.unpack(self._buffer))
            self._target, self._got = self._begin(self.peer, self._head), 0
            if self._head.size:
                return
        head, body = self._head, self._target
        self._head, self._target, self._got = None, self._buffer, 0
        self._arrive(self.peer, head, body)


def _watch_for_vanished_hosts(connection: socket.socket) -> None:
    """A host without power says nothing: ask after half a minute of silence, and give up after another."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
