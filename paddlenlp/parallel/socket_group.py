"""Groups of CPU processes, on one machine or several, over TCP."""

from __future__ import annotations

from itertools import count
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence

import paddle
from paddle import Tensor

from paddlenlp.utils.errors import UsageError

from .group import Group, Work, traffic
from .transport import Transport
from .transport import transport as process_transport
from .transport_link import Parcel
from .transport_mail import Arrival, Slot
from .transport_tensor import TYPES, combine, cut, dense, empty, memory, room, type_name

DIRECT = 1 << 15
"""Up to so many bytes, every rank sends all it has to every other: one step. Above, all_reduce takes two steps, in
which each rank sends and receives 2 (n - 1) / n of the tensor's bytes, as a ring does (Patarasuk and Yuan, 2009)."""

_OPERATIONS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "send", "barrier")
_OPS = ("sum", "max", "min")
_POINT_TO_POINT = 1 << 62
"""Number of the first frame from one rank to another outside collectives."""


class SocketGroup(Group):
    """A group over `Transport`. See `Group`.

    Args:
        name, ranks, rank: see Group. With a negative `rank` nothing is done: a group of others.
        transport: connections to use; those of the process if None.
    """

    def __init__(self, name: str, ranks: Sequence[int], rank: int, transport: Optional[Transport] = None) -> None:
        super().__init__(name, ranks, rank)
        self.device = paddle.CPUPlace()
        if rank < 0 or self.size == 1:
            return
        self._transport = transport or process_transport()
        self._transport.connect(self.ranks)
        self._channel = self._transport.channel(name, self.ranks)
        self._numbers = count(0, 2)  # a collective may have two steps
        self._sent: Dict[int, Iterator[int]] = {}
        self._received: Dict[int, Iterator[int]] = {}

    def _all_reduce(self, x: Tensor, op: str) -> Work[Tensor]:
        call = _Call(self, "all_reduce", type_name(x), op)
        own = memory(x)
        if len(own) <= DIRECT or self.size == 2:
            return self._all_reduce_at_once(call, x, own)
        return self._all_reduce_by_shares(call, x, own)

    def _all_reduce_at_once(self, call: _Call, x: Tensor, own: memoryview) -> Work[Tensor]:
        """Every rank gets everything and adds it up."""
        parts = [own if place == self.rank else room(own) for place in range(self.size)]
        call.exchange([own] * self.size, parts)

        def finish() -> Tensor:
            call.combine(parts, own)
            return x

        return call.work(finish)

    def _all_reduce_by_shares(self, call: _Call, x: Tensor, own: memoryview) -> Work[Tensor]:
        """Every rank adds up its share and sends the sum to the others, as soon as it has all it takes."""
        width, size = x.element_size(), self.size
        bounds = [x.size * place // size * width for place in range(size + 1)]
        shares = cut(own, [end - start for start, end in zip(bounds, bounds[1:])])
        mine = shares[self.rank]
        parts = [mine if place == self.rank else room(mine) for place in range(size)]

        def publish() -> None:
            call.combine(parts, mine)
            call.give([mine] * size, step=1)

        # A rank sends its sum when it has read this one's part of it: the sum may take the part's place.
        call.take(shares, step=1)
        call.exchange(shares, parts, publish)
        return call.work(lambda: x)

    def _all_gather(self, x: Tensor) -> Work[Tensor]:
        x = dense(x)
        rows, *rest = x.shape or [1]
        out = empty([self.size * rows, *rest], x.dtype)
        own = memory(x)
        return self._collect("all_gather", x, out, [own] * self.size, [len(own)] * self.size)

    def _reduce_scatter(self, x: Tensor) -> Work[Tensor]:
        x = dense(x)
        rows = self._share("reduce_scatter", x)
        out = empty([rows, *x.shape[1:]], x.dtype)
        target = memory(out)
        call = _Call(self, "reduce_scatter", type_name(x), "sum")
        shares = cut(memory(x), [len(target)] * self.size)
        parts = [share if place == self.rank else room(share) for place, share in enumerate(shares)]
        call.exchange(shares, parts)

        def finish() -> Tensor:
            call.combine(parts, target)
            return out

        return call.work(finish)

    def _all_to_all(self, x: Tensor, sent: Optional[Sequence[int]], received: Optional[Sequence[int]]) -> Work[Tensor]:
        x = dense(x)
        sent = [self._share("all_to_all", x)] * self.size if sent is None else sent
        received = [self._share("all_to_all", x)] * self.size if received is None else received
        if sum(sent) != x.shape[0] or not len(sent) == len(received) == self.size:
            raise UsageError(
                f"all_to_all of group {self.name}: rank {self.ranks[self.rank]} is to send {list(sent)} of "
                f"{x.shape[0]} rows, and to receive {list(received)}; one number for each of {self.size} ranks is "
                "needed, and all rows must go somewhere"
            )
        out = empty([sum(received), *x.shape[1:]], x.dtype)
        row = x.element_size() * _product(x.shape[1:])
        parts = cut(memory(x), [row * rows for rows in sent])
        return self._collect("all_to_all", x, out, parts, [row * rows for rows in received])

    def _collect(
        self, operation: str, x: Tensor, out: Tensor, parts: Sequence[memoryview], sizes: Sequence[int]
    ) -> Work[Tensor]:
        """Send a part to each rank; what comes from each, so many bytes, goes to `out`, in rank order."""
        call = _Call(self, operation, type_name(x))
        targets = cut(memory(out), sizes)
        targets[self.rank][:] = parts[self.rank]
        call.exchange(parts, targets)
        return call.work(lambda: out)

    def _broadcast(self, x: Tensor, source: int) -> Work[Tensor]:
        call = _Call(self, "broadcast", type_name(x))
        view = memory(x)
        if self.rank == source:
            call.give([view] * self.size)
        else:
            call.take_from([source], [view])
        return call.work(lambda: x)

    def send_bytes(self, view: memoryview, to: int) -> Work[None]:
        """`send` of bytes, wherever they lie in host memory; they must not change before `wait`."""
        traffic.calls[self.name, "send"] += 1
        traffic.bytes[self.name, "send"] += len(view)
        return self._send_view(view, "uint8", to)

    def receive_bytes(self, view: memoryview, source: int) -> Work[None]:
        """Fill `view` with what `send_bytes` of the rank at place `source` sends, which must be as long."""
        return self._receive_view(view, "uint8", source, lambda: None)

    def _send(self, x: Tensor, to: int) -> Work[None]:
        x = dense(x)
        return self._send_view(memory(x), type_name(x), to)

    def _receive(self, shape: Sequence[int], dtype: str, source: int) -> Work[Tensor]:
        out = empty(shape, getattr(paddle, dtype))
        return self._receive_view(memory(out), type_name(out), source, lambda: out)

    def _send_view(self, view: memoryview, kind: str, to: int) -> Work[None]:
        number = next(self._sent.setdefault(to, count(_POINT_TO_POINT)))
        call = _Call(self, "send", kind, number=number)
        call.give_to([to], [view])
        return call.work(lambda: None)

    def _receive_view(self, view: memoryview, kind: str, source: int, finish: Callable[[], Any]) -> Work[Any]:
        number = next(self._received.setdefault(source, count(_POINT_TO_POINT)))
        call = _Call(self, "send", kind, number=number, waiting="receive")
        call.take_from([source], [view])
        return call.work(finish)

    def _barrier(self) -> None:
        call = _Call(self, "barrier", "uint8")
        nothing = [memoryview(b"")] * self.size
        call.exchange(nothing, nothing)
        call.work(lambda: None).wait()

    def _share(self, operation: str, x: Tensor) -> int:
        """Rows for each rank."""
        rows = x.shape[0] if x.shape else 0
        if not x.shape or rows % self.size:
            raise UsageError(
                f"{operation} of group {self.name}: {rows} rows can't be dealt out evenly to {self.size} ranks"
            )
        return rows // self.size


class _Call:
    """One operation under way on this rank: the frames it sends and those it waits for.

    Args:
        group: whose operation it is.
        operation, kind, op: what, on which type of numbers, combined how. Sent along, so that ranks that do different
            things find out.
        number: of its frames, if it is not the next collective of the group.
        waiting: what it is called in messages, if not `operation`.
    """

    def __init__(
        self,
        group: SocketGroup,
        operation: str,
        kind: str,
        op: str = "sum",
        number: Optional[int] = None,
        waiting: str = "",
    ) -> None:
        if op not in _OPS:
            raise UsageError(f"{operation} of group {group.name}: op is {op!r}, expected one of {', '.join(_OPS)}")
        self._group, self._transport = group, group._transport
        self._kind, self._op = kind, op
        self._tag = _OPERATIONS.index(operation) << 16 | TYPES.index(kind) << 8 | _OPS.index(op)
        self._number = next(group._numbers) if number is None else number
        self._what = f"{waiting or operation} of group {group.name} {list(group.ranks)}"
        self._parcels: List[Parcel] = []
        self._arrivals: List[Arrival] = []

    def exchange(
        self, parts: Sequence[memoryview], targets: Sequence[memoryview], then: Optional[Callable[[], None]] = None
    ) -> None:
        """Send each other rank its part, and put what comes from it into its target."""
        self.give(parts)
        self.take(targets, then=then)

    def give(self, parts: Sequence[memoryview], step: int = 0) -> None:
        """Send each other rank its part, beginning with the next one, so that not all call the same one first."""
        others = self._others()
        self.give_to(others, [parts[place] for place in others], step)

    def take(self, targets: Sequence[memoryview], step: int = 0, then: Optional[Callable[[], None]] = None) -> None:
        """Put what comes from each other rank into its target."""
        others = self._others()
        self.take_from(others, [targets[place] for place in others], step, then)

    def give_to(self, places: Sequence[int], parts: Sequence[memoryview], step: int = 0) -> None:
        """Send the ranks at these places their parts."""
        ranks, number = self._group.ranks, self._number + step
        for place, part in zip(places, parts):
            parcel = self._transport.send(ranks[place], self._group._channel, number, self._tag, part)
            self._parcels.append(parcel)

    def take_from(
        self,
        places: Sequence[int],
        targets: Sequence[memoryview],
        step: int = 0,
        then: Optional[Callable[[], None]] = None,
    ) -> None:
        """Put what comes from the ranks at these places into the targets, and then do `then`."""
        ranks, channel, number = self._group.ranks, self._group._channel, self._number + step
        slots = [Slot((ranks[place], channel, number), self._tag, target) for place, target in zip(places, targets)]
        self._arrivals.append(Arrival(slots, then))
        self._transport.expect(self._arrivals[-1])

    def combine(self, parts: Sequence[memoryview], target: memoryview) -> None:
        """Add up (or whatever `op` says) the parts of all ranks."""
        if len(target):
            combine(parts, self._op, self._kind, target)

    def work(self, finish: Callable[[], Any]) -> Work[Any]:
        """The handle: waits until all frames are here, and what was sent may be overwritten."""

        def wait() -> Any:
            self._transport.wait(self._arrivals, self._parcels, self._what, _describe)
            return finish()

        return Work(wait)

    def _others(self) -> List[int]:
        group = self._group
        return [(group.rank + step) % group.size for step in range(1, group.size)]


def _describe(tag: int) -> str:
    operation, kind, op = _OPERATIONS[tag >> 16], TYPES[tag >> 8 & 0xFF], _OPS[tag & 0xFF]
    return f"{operation}{f' ({op})' if operation == 'all_reduce' else ''} of {kind}"


def _product(sizes: Sequence[int]) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total
