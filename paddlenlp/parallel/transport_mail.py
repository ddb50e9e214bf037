"""Brings arriving frames and those who wait for them together, whichever comes first."""

from __future__ import annotations

import threading
from typing import Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np

from .transport_link import Head

Name = Tuple[int, int, int]
"""What names a frame: rank of the sender, channel, number."""


class Slot:
    """A place for one frame.

    Args:
        name: the frame that belongs here.
        tag: what its sender should be doing.
        view: memory for its bytes.
    """

    def __init__(self, name: Name, tag: int, view: memoryview) -> None:
        self.name, self.tag, self.view = name, tag, view
        self.filled = False
        self.found: Optional[Head] = None
        """The head of a frame that does not fit."""


class Arrival:
    """Frames that are awaited together.

    Args:
        slots: one for each.
        then: called once, by the thread that brings the last frame; it must be short and not wait.
    """

    def __init__(self, slots: Sequence[Slot], then: Optional[Callable[[], None]] = None) -> None:
        self.slots, self._then = slots, then
        self._left = len(slots)
        self.complete = False

    def one_less(self) -> bool:
        """Another slot is filled; whether it was the last. Called under the mailbox's lock."""
        self._left -= 1
        return self._left == 0

    def finish(self) -> None:
        """All slots are filled."""
        if self._then is not None:
            self._then()
        self.complete = True

    def missing(self) -> List[Slot]:
        """The slots that are still empty."""
        return [slot for slot in self.slots if not slot.filled]


class Mailbox:
    """Frames that nobody waits for yet, and slots whose frames have not come.

    Args:
        changed: called when an arrival is complete, or never will be.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._lock = threading.Lock()
        self._early: Dict[Name, Tuple[Head, memoryview]] = {}
        self._slots: Dict[Name, Tuple[Slot, Arrival]] = {}

    def expect(self, arrival: Arrival) -> None:
        """Fill the slots of `arrival` as their frames come, or from those that are here."""
        complete = not arrival.slots
        for slot in arrival.slots:
            with self._lock:
                early = self._early.pop(slot.name, None)
                if early is None:
                    self._slots[slot.name] = (slot, arrival)
                else:
                    complete |= _fill(slot, *early) and arrival.one_less()
        if complete:
            arrival.finish()
            self._changed()

    def take(self, name: Name) -> Optional[memoryview]:
        """The bytes of a frame that is here and that nobody waits for; None if it has not come."""
        with self._lock:
            found = self._early.pop(name, None)
        return None if found is None else found[1]

    def begin(self, peer: int, head: Head) -> memoryview:
        """Memory for the bytes of a frame: where they are wanted, if that is known already."""
        with self._lock:
            slot, _ = self._slots.get((peer, head.channel, head.number), (None, None))
        if slot is not None and slot.tag == head.tag and len(slot.view) == head.size:
            return slot.view
        return np.empty(head.size, np.uint8).data

    def arrive(self, peer: int, head: Head, body: memoryview) -> None:
        """A frame is here."""
        name = (peer, head.channel, head.number)
        with self._lock:
            slot, arrival = self._slots.pop(name, (None, None))
            if slot is None or arrival is None:
                self._early[name] = (head, body)
                return
            complete = _fill(slot, head, body) and arrival.one_less()
        if complete:
            arrival.finish()
        if complete or slot.found:
            self._changed()


def _fill(slot: Slot, head: Head, body: memoryview) -> bool:
    """Put the bytes into their slot; whether they belong there."""
    if slot.tag != head.tag or len(slot.view) != head.size:
        slot.found = head
        return False
    if head.size and body is not slot.view:
        slot.view[:] = body
    slot.filled = True
    return True
