"""Groups of CPU processes over TCP."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import threading
import time
from functools import lru_cache
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np
import paddle
from paddle import Tensor

from paddlenlp.utils.errors import UsageError

from .group import Group, Work, done

TIMEOUT = 120.0
_HEAD = struct.Struct("<QIQ")  # channel, sequence number, bytes


class Transport:
    """Draft: one listening socket; one connection for each ordered pair of ranks; frames by (source, channel, number)."""

    def __init__(self) -> None:
        self.rank = int(os.environ["PADDLE_TRAINER_ID"])
        self.endpoints = [e.rsplit(":", 1) for e in os.environ["PADDLE_TRAINER_ENDPOINTS"].split(",")]
        self.inbox: Dict[Tuple[int, int, int], memoryview] = {}
        self.arrived = threading.Condition()
        self.out: Dict[int, Any] = {}
        self.lock = threading.Lock()
        host, port = self.endpoints[self.rank]
        self.server = socket.create_server((host, int(port)), backlog=128)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            peer, _ = self.server.accept()
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._read, args=(peer,), daemon=True).start()

    def _read(self, peer: socket.socket) -> None:
        try:
            source = struct.unpack("<I", self._exact(peer, 4))[0]
            while True:
                channel, number, size = _HEAD.unpack(self._exact(peer, _HEAD.size))
                data = self._exact(peer, size)
                with self.arrived:
                    self.inbox[source, channel, number] = data
                    self.arrived.notify_all()
        except (EOFError, OSError):
            pass

    @staticmethod
    def _exact(peer: socket.socket, size: int) -> memoryview:
        view, got = memoryview(bytearray(size)), 0
        while got < size:
            count = peer.recv_into(view[got:])
            if count == 0:
                raise EOFError
            got += count
        return view

    def _connect(self, to: int) -> Any:
        host, port = self.endpoints[to]
        end = time.monotonic() + TIMEOUT
        while True:
            try:
                s = socket.create_connection((host, int(port)), timeout=5)
                break
            except OSError:
                if time.monotonic() > end:
                    raise UsageError(f"rank {self.rank} cannot reach rank {to} at {host}:{port}") from None
                time.sleep(0.05)
        s.settimeout(None)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        s.sendall(struct.pack("<I", self.rank))
        return s

    def send(self, to: int, channel: int, number: int, data: memoryview) -> None:
        with self.lock:
            if to not in self.out:
                self.out[to] = self._connect(to)
            peer = self.out[to]
            peer.sendall(_HEAD.pack(channel, number, len(data)))
            peer.sendall(data)

    def receive(self, source: int, channel: int, number: int, what: str) -> memoryview:
        end = time.monotonic() + TIMEOUT
        with self.arrived:
            while (source, channel, number) not in self.inbox:
                left = end - time.monotonic()
                if left <= 0:
                    raise UsageError(f"rank {self.rank}: {what}: nothing from rank {source} within {TIMEOUT:.0f} s")
                self.arrived.wait(left)
            return self.inbox.pop((source, channel, number))


@lru_cache(maxsize=1)
def transport() -> Transport:
    """The one of this process."""
    return Transport()


class SocketGroup(Group):
    """Draft."""

    def __init__(self, name: str, ranks: Sequence[int], rank: int) -> None:
        super().__init__(name, ranks, rank)
        import hashlib

        text = f"{name}:{','.join(map(str, ranks))}"
        self.channel = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
        self.number = 0
        self._sent: Dict[int, int] = {}
        self._received: Dict[int, int] = {}

    def _exchange(self, what: str, parts: Sequence[memoryview]) -> Callable[[], List[memoryview]]:
        self.number += 1
        number = self.number
        for step in range(1, self.size):
            to = (self.rank + step) % self.size
            transport().send(self.ranks[to], self.channel, number, parts[to])

        def finish() -> List[memoryview]:
            return [
                parts[self.rank]
                if place == self.rank
                else transport().receive(rank, self.channel, number, f"{what} in group {self.name} {self.ranks}")
                for place, rank in enumerate(self.ranks)
            ]

        return finish

    def _all_reduce(self, x: Tensor, op: str) -> Work[Tensor]:
        finish = self._exchange("all_reduce", [_bytes(x)] * self.size)

        def result() -> Tensor:
            _fill(x, _combine([_array(data, x) for data in finish()], op))
            return x

        return Work(result)

    def _all_gather(self, x: Tensor) -> Work[Tensor]:
        finish = self._exchange("all_gather", [_bytes(x)] * self.size)
        return Work(lambda: _tensor(finish(), [self.size * x.shape[0], *x.shape[1:]], x))

    def _reduce_scatter(self, x: Tensor) -> Work[Tensor]:
        shares = _split(x, [x.shape[0] // self.size] * self.size)
        finish = self._exchange("reduce_scatter", shares)

        def result() -> Tensor:
            out = paddle.empty([x.shape[0] // self.size, *x.shape[1:]], x.dtype)
            _fill(out, _combine([_array(data, x) for data in finish()], "sum"))
            return out

        return Work(result)

    def _all_to_all(self, x: Tensor, sent: Optional[Sequence[int]], received: Optional[Sequence[int]]) -> Work[Tensor]:
        finish = self._exchange("all_to_all", _split(x, sent or [x.shape[0] // self.size] * self.size))
        rows = x.shape[0] if received is None else sum(received)
        return Work(lambda: _tensor(finish(), [rows, *x.shape[1:]], x))

    def _broadcast(self, x: Tensor, source: int) -> Work[Tensor]:
        self.number += 1
        if self.rank == source:
            for place in range(self.size):
                if place != source:
                    transport().send(self.ranks[place], self.channel, self.number, _bytes(x))
            return done(x)
        number = self.number

        def result() -> Tensor:
            _bytes(x)[:] = transport().receive(self.ranks[source], self.channel, number, f"broadcast in {self.name}")
            return x

        return Work(result)

    def _send(self, x: Tensor, to: int) -> Work[None]:
        self._sent[to] = number = self._sent.get(to, 1 << 31) + 1
        transport().send(self.ranks[to], self.channel, number, _bytes(x))
        return done(None)

    def _receive(self, shape: Sequence[int], dtype: str, source: int) -> Work[Tensor]:
        self._received[source] = number = self._received.get(source, 1 << 31) + 1

        def result() -> Tensor:
            what = f"receive in group {self.name} {self.ranks}"
            data = transport().receive(self.ranks[source], self.channel, number, what)
            return _tensor([data], list(shape), paddle.empty([0], dtype))

        return Work(result)

    def _barrier(self) -> None:
        self._exchange("barrier", [memoryview(b"")] * self.size)()


def _bytes(x: Tensor) -> memoryview:
    if x.size == 0:
        return memoryview(b"")
    assert x.is_contiguous()
    buffer = (ctypes.c_ubyte * (x.size * x.element_size())).from_address(x.data_ptr())
    buffer.owner = x  # type: ignore[attr-defined]
    return memoryview(buffer).cast("B")


def _numpy_type(x: Tensor) -> np.dtype:
    name = str(x.dtype).replace("paddle.", "")
    return np.dtype("uint16" if name == "bfloat16" else name)


def _array(data: memoryview, like: Tensor) -> np.ndarray:
    array = np.frombuffer(data, _numpy_type(like))
    if like.dtype == paddle.bfloat16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32) if like.dtype == paddle.float16 else array


def _combine(arrays: List[np.ndarray], op: str) -> np.ndarray:
    function: Any = {"sum": np.add, "max": np.maximum, "min": np.minimum}[op]
    total = arrays[0].copy()
    for array in arrays[1:]:
        function(total, array, out=total)
    return total


def _fill(x: Tensor, values: np.ndarray) -> None:
    if x.dtype in (paddle.bfloat16, paddle.float16):
        low = paddle.to_tensor(values.astype(np.float32)).astype(x.dtype)
        _bytes(x)[:] = _bytes(low)
    else:
        _bytes(x)[:] = memoryview(np.ascontiguousarray(values)).cast("B")


def _tensor(parts: List[memoryview], shape: List[int], like: Tensor) -> Tensor:
    out = paddle.empty(shape, like.dtype)
    view, start = _bytes(out), 0
    for part in parts:
        view[start : start + len(part)] = part
        start += len(part)
    return out


def _split(x: Tensor, rows: Sequence[int]) -> List[memoryview]:
    view, parts, start = _bytes(x), [], 0
    width = len(view) // max(x.shape[0], 1)
    for count in rows:
        parts.append(view[start : start + count * width])
        start += count * width
    return parts
