"""Ends a job that hangs, and says on every rank which rank it was and what it was doing.

    with watched(args.hang_timeout, args.world_size):
        ...

A thread of each rank looks every half second whether the rank goes on (`heartbeat`) and tells rank 0, which judges
(`verdict`) and tells all. Each rank watches rank 0 in return. So every rank sends and receives one small frame, rank 0
one per rank; above 500 ranks the frames become rarer. Time during which this process itself was stopped does not count.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

from paddlenlp.utils.log import logger

from .failure import end_stuck
from .heartbeat import beat, peek
from .transport import Transport, transport
from .transport_link import Parcel
from .verdict import Judge, Report

LOOK = 0.5
"""Seconds between two looks, in jobs of up to 500 ranks; a tenth of the timeout if that is shorter."""

FRAMES = 1000
"""So many reports a second rank 0 is to read at most."""

SILENT = 6
"""A rank that has not reported for so many looks gives no sign of life."""

_STDERR = 2
_LIBRARY = str(Path(os.__file__).parent)


class Watchdog:
    """Watches this rank, on rank 0 all.

    Args:
        timeout: seconds without progress that are too long.
        world: number of ranks.
    """

    def __init__(self, timeout: float, world: int) -> None:
        self.timeout = timeout
        self.interval = min(timeout / 10, max(LOOK, world / FRAMES))
        self.clock = 0.0
        self._world = world
        self._over = threading.Event()
        self._watch = _Watch()
        self._office: Any = None
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begin. Every rank does; the thread that calls it is the one that is watched."""
        beat.home = threading.get_ident()
        beat.share()
        silence = SILENT * self.interval
        if self._world == 1:
            self._office = _Leader([], self.timeout, silence)
        else:
            post = _Post(transport(), self._world)
            make = _Follower if post.rank else _Leader
            self._office = make(post, self.timeout, silence)
        self._thread.start()

    def stop(self) -> None:
        """End. The other ranks learn that this one is not to be missed."""
        self._over.set()
        self._thread.join(2 * self.interval + 1)
        faulthandler.cancel_dump_traceback_later()
        self._office.close()

    def _run(self) -> None:
        rest = self.interval
        while not self._over.is_set():
            began = time.monotonic()
            try:
                self._look()
            except Exception as error:  # a job that works must not end because of what watches it
                logger.warning(f"Nobody watches this rank any more, a hang will not be noticed: {error!r}")
                faulthandler.cancel_dump_traceback_later()
                self._office.close()
                return
            self._over.wait(rest)
            # As far as this process ran: it may have been stopped, and so may its host.
            self.clock += min(time.monotonic() - began, 3 * self.interval)

    def _look(self) -> None:
        self._dump_when_locked_out()
        text = self._office.look(self._watch.report(self.clock), self.clock)
        if text and not self._over.is_set():
            faulthandler.cancel_dump_traceback_later()
            end_stuck(text)

    def _dump_when_locked_out(self) -> None:
        """Have the stacks written when even this thread can't run, because another one keeps the interpreter."""
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            if self.clock - self._watch.armed >= min(5.0, self.timeout / 10):
                self._watch.armed = self.clock
                faulthandler.dump_traceback_later(self.timeout, file=_STDERR)


class _Watch:
    """Looks at this rank."""

    def __init__(self) -> None:
        self.armed = float("-inf")
        self._rank = int(os.environ.get("PADDLE_TRAINER_ID") or 0)
        self._host = socket.gethostname()
        self._count, self._moved = -1, 0.0

    def report(self, now: float) -> Report:
        count = beat.count
        if count != self._count:
            self._count, self._moved = count, now
        step, phase = beat.place
        wait, group = beat.wait(), beat.group
        return Report(
            rank=self._rank,
            host=self._host,
            process=os.getpid(),
            step=step,
            phase=phase,
            idle=now - self._moved,
            waits="" if wait is None else wait.what,
            ranks=[] if wait is None else list(wait.ranks()),
            last="" if group is None else f"{beat.operation} {group.calls} of group {group.name} {list(group.ranks)}",
            at=_line(beat.home),
            turns=beat.turns(),
            page=beat.page,
        )


class _Post:
    """Messages between rank 0 and the others: JSON, read when somebody looks, sent if the last one has left."""

    def __init__(self, connections: Transport, world: int) -> None:
        self.transport, self.world, self.rank = connections, world, connections.rank
        self.peers = range(1, world) if self.rank == 0 else range(1)
        self.transport.connect(list(self.peers))
        self._channel = self.transport.channel("watchdog", range(world))
        self._sent = dict.fromkeys(self.peers, 0)
        self._read = dict.fromkeys(self.peers, 0)
        self._parcels: Dict[int, Parcel] = {}

    def send(self, peer: int, message: Dict[str, Any], urgent: bool = False) -> None:
        before = self._parcels.get(peer)
        if before is not None and not before.out and not urgent:
            return
        body = memoryview(json.dumps(message).encode())
        self._parcels[peer] = self.transport.send(peer, self._channel, self._sent[peer], 0, body)
        self._sent[peer] += 1

    def read(self, peer: int) -> List[Dict[str, Any]]:
        found: List[Dict[str, Any]] = []
        while True:
            body = self.transport.take(peer, self._channel, self._read[peer])
            if body is None:
                return found
            self._read[peer] += 1
            found.append(json.loads(bytes(body)))

    def ward(self, rank: int) -> Optional[int]:
        """The rank that `rank` keeps an eye on: the next on its host."""
        hosts = [host for host, _ in self.transport.job.addresses]
        same = [other for other in range(self.world) if hosts[other] == hosts[rank]]
        following = same[(same.index(rank) + 1) % len(same)]
        return following if following != rank else None

    def is_near(self, rank: int) -> bool:
        """Whether a rank is on the same host."""
        addresses = self.transport.job.addresses
        return addresses[rank][0] == addresses[self.rank][0]

    def has_left(self, peer: int) -> bool:
        return peer in self.transport.left or self.transport.failure is not None


class _Leader:
    """Rank 0, or the only one: judges."""

    def __init__(self, post: Any, timeout: float, silence: float) -> None:
        self._post: Optional[_Post] = post or None
        self._peers = list(post.peers) if post else []
        self._wards = {rank: post.ward(rank) for rank in range(post.world)} if post else {}
        self._judge = Judge([0, *self._peers], timeout, silence, 0.0)

    def look(self, own: Report, now: float) -> str:
        self._judge.hear(own._replace(seen=self._look_at_ward()), now)
        for peer in list(self._peers):
            self._read(peer, now)
        text = self._judge.verdict(now)
        for peer in self._peers:
            self._tell(peer, {"report": own._asdict(), "ward": self._ward_of(peer), "verdict": text}, bool(text))
        return text

    def close(self) -> None:
        for peer in self._peers:
            self._tell(peer, {"report": Report(0, over=True)._asdict()}, True)

    def _read(self, peer: int, now: float) -> None:
        assert self._post is not None
        messages = self._post.read(peer)
        for message in messages:
            self._judge.hear(Report(**message), now)
        if self._post.has_left(peer) or any(message["over"] for message in messages):
            self._judge.hear(Report(peer, over=True), now)
            self._peers.remove(peer)

    def _tell(self, peer: int, message: Dict[str, Any], urgent: bool) -> None:
        assert self._post is not None
        self._post.send(peer, message, urgent)

    def _ward_of(self, rank: int) -> Any:
        ward = self._wards.get(rank)
        page = None if ward is None else self._judge.page(ward)
        return None if page is None else [ward, page]

    def _look_at_ward(self) -> Any:
        return _seen(self._ward_of(0))


class _Follower:
    """Any other rank: reports, obeys, and watches rank 0."""

    def __init__(self, post: _Post, timeout: float, silence: float) -> None:
        self._post = post
        self._timeout, self._silence = timeout, silence
        self._ward: Any = None
        self._leader = Report(0)
        self._heard: Optional[float] = None

    def look(self, own: Report, now: float) -> str:
        if self._leader.over:
            return ""
        self._post.send(0, own._replace(seen=_seen(self._ward))._asdict())
        for message in self._post.read(0):
            self._heard, self._leader = now, Report(**message["report"])
            self._ward = message.get("ward") or self._ward
            if message.get("verdict"):
                return str(message["verdict"])
        if now - (self._heard or 0.0) < self._timeout or self._post.has_left(0):
            return ""
        return self._leader_is_gone(own, now)

    def close(self) -> None:
        self._post.send(0, Report(self._post.rank, over=True)._asdict(), urgent=True)

    def _leader_is_gone(self, own: Report, now: float) -> str:
        """All the others find this out by themselves, at the same time."""
        judge = Judge([0, own.rank], self._timeout, self._silence, 0.0)
        if self._heard is not None:
            judge.hear(self._leader, self._heard)
        page = self._leader.page if self._post.is_near(0) else None
        judge.hear(own._replace(seen=_seen(page and [0, page])), now)
        return judge.verdict(now)


def _seen(ward: Any) -> Any:
    """Rank, step and phase of a rank of this host, given it and the place of its notes."""
    found = None if ward is None else peek(ward[1])
    return None if found is None else [ward[0], *found]


def _line(thread: int) -> str:
    """The line of the program where a thread is, of this toolkit or the user, not of a library."""
    frame = innermost = sys._current_frames().get(thread)
    while frame is not None and frame.f_code.co_filename.startswith(_LIBRARY):
        frame = frame.f_back
    frame = frame or innermost
    return "" if frame is None else f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"


_watching = False


@contextlib.contextmanager
def watched(timeout: float, world: int) -> Iterator[None]:
    """Within the block this job is watched; in a block within that one nothing changes.

    Args:
        timeout: seconds without progress of a rank after which all ranks end with the exit code `failure.STUCK`; 0:
            never.
        world: number of ranks. All of them come here, and none ends for having waited long for another.
    """
    global _watching
    if _watching:
        yield
        return
    dog = Watchdog(timeout, world) if timeout > 0 else None
    with _patience_of(world):
        _watching = True
        if dog is not None:
            dog.start()
        try:
            yield
        finally:
            _watching = False
            if dog is not None:
                dog.stop()


@contextlib.contextmanager
def _patience_of(world: int) -> Iterator[None]:
    """Within the block, no rank gives up waiting by itself."""
    if world == 1:
        yield
        return
    connections = transport()
    before, connections.patience = connections.patience, float("inf")
    try:
        yield
    finally:
        connections.patience = before
