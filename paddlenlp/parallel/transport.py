"""Frames between the ranks of a job over TCP: what `SocketGroup` stands on. Knows nothing of tensors.

One connection joins each pair of ranks that have a group in common; one thread reads them all and sends what did not
leave at once, so that sending never waits for the other side's program. A frame is named by its sender, the operation's
channel and number, and goes straight into the memory where it is wanted if that is known when it comes.

A rank says goodbye before it ends. If its connection ends without that, or it says that it has failed, whoever waits,
for whatever rank, raises `RankFailed` at once.
"""

from __future__ import annotations

import atexit
import os
import selectors
import socket
import struct
import sys
import threading
import time
from collections import Counter, deque
from contextlib import suppress
from hashlib import sha256
from typing import Callable, Deque, Dict, List, Optional, Sequence, Set, Tuple

from paddlenlp.utils.errors import UsageError

from .failure import RankFailed, note_failed, reason_of
from .heartbeat import beat
from .transport_job import Job
from .transport_link import DATA, FAILED, GOODBYE, SEEN, Head, Link, Parcel
from .transport_mail import Arrival, Mailbox, Slot
from .transport_meet import Meeting

TIMEOUT = 600.0
"""Seconds to wait for another rank, where no watchdog says who keeps the others waiting (`Transport.patience`)."""

LINGER = 30.0
"""Seconds, after everything has left, for the others to confirm that they have read it."""

FAREWELL = 5.0
"""Seconds for the others to hear that this rank has failed, those included that are still starting."""

_RANK = struct.Struct("<I")


class Transport:
    """This rank's connections.

    Args:
        job: the ranks.
        on_failure: called once, from the thread that reads, when another rank has failed.

    Attributes:
        failure: another rank has failed.
        left: the ranks that have said goodbye.
        patience: seconds to wait for another rank.
    """

    def __init__(self, job: Job, on_failure: Callable[[RankFailed], None] = note_failed) -> None:
        self.job = job
        self.failure: Optional[RankFailed] = None
        self.left: Set[int] = set()
        self.patience = TIMEOUT
        self._on_failure = on_failure
        self._changed = threading.Condition()
        self._mail = Mailbox(self._notify)
        self._links: Dict[int, Link] = {}
        self._groups: Counter = Counter()
        self._reached: Set[int] = set()
        self._unconfirmed: Set[int] = set()
        self._errands: Deque[Callable[[], None]] = deque()
        self._selector = selectors.DefaultSelector()
        self._wake, woken = socket.socketpair()
        self._woken = woken
        self._over = False
        woken.setblocking(False)
        self._selector.register(woken, selectors.EVENT_READ)
        self._meeting = Meeting(job, self._met, self._trouble)
        self._thread = threading.Thread(target=self._run, name="ranks: frames", daemon=True)
        self._thread.start()

    @property
    def rank(self) -> int:
        """This process's global rank."""
        return self.job.rank

    @property
    def sent_bytes(self) -> int:
        """What has gone out so far, to all ranks."""
        return sum(link.sent_bytes for link in list(self._links.values()))

    def connect(self, ranks: Sequence[int]) -> None:
        """See to connections with these ranks; they call it too."""
        for peer in ranks:
            if peer != self.rank:
                self._link(peer)
            if peer < self.rank and peer not in self._reached:
                self._reached.add(peer)
                self._meeting.reach(peer)

    def send(self, to: int, channel: int, number: int, tag: int, body: memoryview) -> Parcel:
        """Send a frame. `body` must not change before `out` of the parcel is true."""
        return self._post(self._links[to], Head(DATA, tag, channel, number, len(body)), body)

    def expect(self, arrival: Arrival) -> None:
        """Fill its slots when the frames come."""
        self._mail.expect(arrival)

    def take(self, sender: int, channel: int, number: int) -> Optional[memoryview]:
        """The bytes of a frame if it is here; for one who does not wait."""
        return self._mail.take((sender, channel, number))

    def channel(self, name: str, ranks: Sequence[int]) -> int:
        """What tells the frames of a new group from those of all others, the same number on all its ranks.

        Groups of the same name and ranks differ by how many there were before, which all their ranks agree on, since
        all make the same groups in the same order.
        """
        key = (name, tuple(ranks))
        self._groups[key] += 1
        digest = sha256(repr((*key, self._groups[key])).encode()).digest()
        return int.from_bytes(digest[:8], "little")

    def wait(
        self, arrivals: Sequence[Arrival], parcels: Sequence[Parcel], what: str, describe: Callable[[int], str]
    ) -> None:
        """Return when the frames are here and the parcels out.

        Args:
            what: the operation, in messages: "all_reduce of group tp [0, 3]".
            describe: says of a tag what its sender does.

        Raises:
            RankFailed: a rank has failed, or one that is waited for has ended.
            UsageError: another rank does something else, or nothing in time.
        """
        if all(arrival.complete for arrival in arrivals) and all(parcel.out for parcel in parcels):
            return
        end = time.monotonic() + self.patience
        with beat.waiting(what, lambda: self._absent(arrivals)), self._changed:
            while not (all(arrival.complete for arrival in arrivals) and all(parcel.out for parcel in parcels)):
                missing = [slot for arrival in arrivals for slot in arrival.missing()]
                self._refuse_mismatch(missing, what, describe)
                absent = self._absent(arrivals)
                self._refuse_failed(absent, what)
                left = end - time.monotonic()
                if left <= 0:
                    raise self._late(absent, what)
                self._changed.wait(None if left == float("inf") else left)

    def leave(self, error: Optional[BaseException] = None) -> None:
        """Say goodbye, or what failed, see that everything sent has arrived, and close. Nothing works afterwards."""
        if self._over:
            return
        head, body = self._last_words(error)
        for link in list(self._links.values()):
            if link.socket is not None or link.waiting or error:
                self._post(link, head, memoryview(body))
                self._unconfirmed.add(link.peer)
        self._linger(FAREWELL if error else LINGER, FAREWELL if error else TIMEOUT)
        self._close()

    def forget(self) -> None:
        """In a forked child: the connections are the parent's alone, and end when it ends."""
        for link in list(self._links.values()):
            if link.socket is not None:
                link.socket.close()
        for held in (self._meeting.listener, self._wake, self._woken, self._selector):
            held.close()

    def _link(self, peer: int) -> Link:
        with self._changed:
            if peer not in self._links:
                self._links[peer] = Link(peer, self._mail.begin, self._arrive)
            return self._links[peer]

    def _met(self, peer: int, connection: socket.socket) -> bool:
        link = self._link(peer)
        with self._changed:
            if link.socket is not None or self._over:
                return False
            link.attach(connection)
            self._changed.notify_all()  # what has waited for the connection may be out by now
        self._ask(lambda: self._watch(link))
        return True

    def _trouble(self, peer: int, text: str) -> None:
        self._link(peer).trouble = text

    def _post(self, link: Link, head: Head, body: memoryview) -> Parcel:
        parcel = link.send(head, body)
        if not parcel.out and link.socket is not None:
            self._ask(lambda: self._watch(link))
        return parcel

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    # What the reading thread does.

    def _run(self) -> None:
        try:
            while not self._over:
                for key, events in self._selector.select():
                    self._serve(key.data, events)
                while self._errands:
                    self._errands.popleft()()
        except Exception as error:  # whoever waits must learn that nothing will come any more
            self._fall(RankFailed(self.rank, f"has failed ({reason_of(error)})"))

    def _ask(self, errand: Callable[[], None]) -> None:
        self._errands.append(errand)
        with suppress(BlockingIOError):  # so many bytes lie there that it will wake anyway
            self._wake.send(b"!")

    def _serve(self, link: Optional[Link], events: int) -> None:
        if link is None:
            self._woken.recv(4096)
            return
        if events & selectors.EVENT_WRITE:
            link.push()
            self._watch(link)
            self._notify()
        if events & selectors.EVENT_READ and not link.read():
            self._end(link)

    def _watch(self, link: Link) -> None:
        if link.socket is None or link.ended:
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if link.waiting else 0)
        if link.socket in self._selector.get_map():
            self._selector.modify(link.socket, events, link)
        else:
            self._selector.register(link.socket, events, link)

    def _end(self, link: Link) -> None:
        assert link.socket is not None
        self._selector.unregister(link.socket)
        link.close()
        if link.peer not in self.left:
            self._fall(RankFailed(link.peer, "has ended"))
        self._notify()

    def _arrive(self, peer: int, head: Head, body: memoryview) -> None:
        if head.kind == DATA:
            self._mail.arrive(peer, head, body)
            return
        if head.kind == SEEN:
            self._unconfirmed.discard(peer)
        else:
            self._post(self._links[peer], Head(SEEN, 0, 0, 0, 0), memoryview(b""))
            if head.kind == FAILED:
                self._fall(_failure_in(body))
            else:
                self.left.add(peer)
        self._notify()

    def _fall(self, failure: RankFailed) -> None:
        with self._changed:
            if self.failure is not None or self._over:
                return
            self.failure = failure
            self._changed.notify_all()
        self._on_failure(failure)

    # Why waiting is in vain.

    def _refuse_mismatch(self, missing: Sequence[Slot], what: str, describe: Callable[[int], str]) -> None:
        for slot in missing:
            if slot.found is not None:
                raise UsageError(
                    f"{what}: rank {self.rank} calls {describe(slot.tag)} and expects {len(slot.view)} bytes from rank "
                    f"{slot.name[0]}, which calls {describe(slot.found.tag)} with {slot.found.size} bytes. All ranks "
                    "of a group must call the same operations in the same order, with the same shapes and types."
                )

    def _refuse_failed(self, absent: Sequence[int], what: str) -> None:
        gone = [peer for peer in absent if peer in self.left]
        failure = self.failure or (RankFailed(gone[0], "has finished") if gone else None)
        if failure is not None:
            others = "it" if failure.rank in absent else _named(absent)
            raise RankFailed(failure.rank, failure.how, f"while rank {self.rank} waits for {others} in {what}")

    def _late(self, absent: Sequence[int], what: str) -> UsageError:
        troubles = [f"Rank {peer}: {self._links[peer].trouble}." for peer in absent if self._links[peer].trouble]
        return UsageError(
            f"{what}: rank {self.rank} has waited {self.patience:g} s for {_named(absent)}. "
            + " ".join([*troubles, "Look at the log of the missing rank for what it does instead."])
        )

    def _absent(self, arrivals: Sequence[Arrival]) -> List[int]:
        """The ranks for which a wait goes on."""
        missing = {slot.name[0] for arrival in arrivals for slot in arrival.missing()}
        return sorted(missing) or self._behind()

    def _behind(self) -> List[int]:
        """Ranks that do not take what is sent to them."""
        return sorted(peer for peer, link in list(self._links.items()) if link.waiting)

    # The end.

    def _last_words(self, error: Optional[BaseException]) -> Tuple[Head, bytes]:
        if error is None:
            return Head(GOODBYE, 0, 0, 0, 0), b""
        failure = error if isinstance(error, RankFailed) else RankFailed(self.rank, f"has failed ({reason_of(error)})")
        body = _RANK.pack(failure.rank) + failure.how.encode()
        return Head(FAILED, 0, 0, 0, len(body)), body

    def _linger(self, seconds: float, while_sending: float) -> None:
        """Wait until the others have read everything: so long after it has left, and so long for it to leave."""
        latest = time.monotonic() + while_sending
        end = time.monotonic() + seconds
        with self._changed:
            while any(not self._links[peer].ended for peer in self._unconfirmed) and self.failure is None:
                now = time.monotonic()
                end = min(now + seconds, latest) if self._behind() else end
                if now >= end:
                    return
                self._changed.wait(min(end - now, 1.0))

    def _close(self) -> None:
        self._over = True
        self._meeting.end()
        self._ask(lambda: None)
        self._thread.join(1.0)
        for link in list(self._links.values()):
            link.close()


def _failure_in(body: memoryview) -> RankFailed:
    (rank,) = _RANK.unpack_from(body)
    return RankFailed(rank, bytes(body[_RANK.size :]).decode(errors="replace"))


def _named(ranks: Sequence[int]) -> str:
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}"


_lock = threading.Lock()
_current: Optional[Transport] = None


def transport() -> Transport:
    """The one of this process, made when it is first asked for."""
    global _current
    with _lock:
        if _current is None:
            _current = Transport(Job.from_environment())
        return _current


def patience() -> float:
    """Seconds that a rank waits for another; infinite where a watchdog sees to it."""
    return TIMEOUT if _current is None else _current.patience


def leave(error: Optional[BaseException] = None) -> None:
    """Close the transport of this process if there is one; see `Transport.leave`."""
    if _current is not None:
        _current.leave(error)


def _forget() -> None:
    global _current
    if _current is not None:
        _current.forget()
        _current = None


atexit.register(lambda: leave(getattr(sys, "last_value", None)))
os.register_at_fork(after_in_child=_forget)
