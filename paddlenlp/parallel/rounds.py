"""Carrying out the plan of a checkpoint: in each round every writer gets what its next block takes, and passes it on.

A writer tells the ranks that hold something of its block when it has room for it, so nobody holds more than one block,
whoever is fast. All go through the same rounds, also who has nothing to write, or has failed to: others count on what
it sends.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Callable, Dict, Iterator, List, Sequence, Tuple

import numpy as np

from .catalogue import Part
from .dealing import Box, Orders, Send, Slab, Take
from .heartbeat import beat

ROOM = memoryview(bytearray())
"""The message that a writer has room: it says so by coming."""


class Rounds:
    """What one rank does in the rounds.

    Args:
        orders: of this rank.
        parts: of this rank, by number.
        group: of all ranks; what `control_group` gives.
    """

    def __init__(self, orders: Orders, parts: Sequence[Part], group: Any) -> None:
        self._orders, self._parts, self._group = orders, parts, group
        self._last: Tuple[int, Any] = (-1, None)

    def run(self, consume: Callable[[int, memoryview], None]) -> None:
        """Go through all rounds.

        Args:
            consume: gets the number of a file among this rank's, and the next bytes of it. It must not raise.
        """
        blocks = [(number, block) for number, file in enumerate(self._orders.files) for block in file.blocks]
        for number, sends in enumerate(self._orders.sends):
            file, block = blocks[number] if number < len(blocks) else (0, [])
            for view in self._exchange(sends, block):
                consume(file, view)
            beat.progress()
        self._last = (-1, None)

    def _exchange(self, sends: Sequence[Send], block: Sequence[Box]) -> Iterator[memoryview]:
        """The content of this rank's block; what other blocks take from here is sent meanwhile."""
        group = self._group
        # In the order in which the other side sends: that it has room, then what this block takes.
        rooms = [group.receive_bytes(ROOM, send.to) for send in sends]
        inboxes = {rank: _Inbox(size) for rank, size in _sizes(block).items() if rank != group.rank}
        coming = [group.receive_bytes(inbox.view, rank) for rank, inbox in inboxes.items()]
        sent = [group.send_bytes(ROOM, rank) for rank in inboxes]
        for send, room in zip(sends, rooms):
            room.wait()
            sent.append(group.send_bytes(self._collected(send.takes), send.to))
        for work in coming:
            work.wait()
        for box in block:
            yield from self._content(box, inboxes)
        for work in sent:
            work.wait()

    def _content(self, box: Box, inboxes: Dict[int, _Inbox]) -> Iterator[memoryview]:
        """The bytes of a box; without a copy where they lie in order already."""
        if len(box.slabs) == 1 and box.slabs[0].spans == [(0, box.shape[1])]:
            yield from self._views(box.slabs[0], box.item, inboxes)
            return
        lead, width, rest = box.shape[0], box.shape[1], box.shape[2] * box.item
        whole = np.empty((lead, width, rest), np.uint8)
        for slab in box.slabs:
            share = _joined(list(self._views(slab, box.item, inboxes))).reshape(lead, -1, rest)
            at = 0
            for start, stop in slab.spans:
                whole[:, start:stop] = share[:, at : at + stop - start]
                at += stop - start
        yield whole.reshape(-1).data

    def _views(self, slab: Slab, item: int, inboxes: Dict[int, _Inbox]) -> Iterator[memoryview]:
        for take in slab.takes:
            if take.rank == self._group.rank:
                yield self._own(take)
            else:
                yield inboxes[take.rank].next((take.stop - take.start) * item)

    def _collected(self, takes: Sequence[Take]) -> memoryview:
        views = [self._own(take) for take in takes]
        return views[0] if len(views) == 1 else _joined(views).data

    def _own(self, take: Take) -> memoryview:
        """The part asked for last stays at hand: some are made when they are fetched."""
        part = self._parts[take.number]
        if self._last[0] != take.number:
            self._last = (take.number, part.fetch())
        return part.data(self._last[1], take.start, take.stop)


class _Inbox:
    """What one rank sends for one block, taken out in order."""

    def __init__(self, size: int) -> None:
        self.view = np.empty(size, np.uint8).data
        self._at = 0

    def next(self, size: int) -> memoryview:
        start, self._at = self._at, self._at + size
        return self.view[start : self._at]


def _sizes(block: Sequence[Box]) -> Counter:
    """Rank -> bytes that a block takes from it."""
    found: Counter = Counter()
    for box in block:
        for take in (take for slab in box.slabs for take in slab.takes):
            found[take.rank] += (take.stop - take.start) * box.item
    return found


def _joined(views: List[memoryview]) -> Any:
    arrays = [np.frombuffer(view, np.uint8) for view in views]
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
