"""What this process is doing, noted as it works, so that a watchdog can tell a rank that works from one that hangs.

A note is an assignment or two: no lock, no system call, no clock. The watchdog looks now and then whether `count` has
grown. Step and phase lie in memory that other processes of the same host can read, also when this one is stopped.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from threading import get_ident
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple
from weakref import ReferenceType

Ranks = Callable[[], Sequence[int]]
Busy = Callable[[], bool]

_PAGE = 64
_STEP = struct.Struct("<q")
_TEXT = _PAGE - _STEP.size


class Wait(NamedTuple):
    """What a thread waits in, and a function that says for which ranks."""

    what: str
    ranks: Ranks


class Heartbeat:
    """The notes of one process. Every process has one, `beat`.

    Attributes:
        home: the thread that trains.
        count: grows with everything that is progress.
        group, operation: the last collective of the training thread; `group.calls` is its number.
        waits: what threads wait in, by thread.
        unseen: references to groups over whose collectives devices wait, not threads; each has a `key` and `turns`.
        page: step and phase, for other processes to read: (process, file descriptor), None if nobody can.
    """

    def __init__(self) -> None:
        self.home = get_ident()
        self.count = 0
        self.group: Any = None
        self.operation = ""
        self.waits: Dict[int, Wait] = {}
        self.unseen: List[ReferenceType] = []
        self.page: Optional[Tuple[int, int]] = None
        self._busy: Dict[int, Busy] = {}
        self._memory = memoryview(bytearray(_PAGE))
        self._step, self._phase = 0, ""
        self._texts: Dict[str, bytes] = {}
        self.enter("start-up")

    @property
    def step(self) -> int:
        """The step under way, from 1; 0 before the first."""
        return self._step

    @step.setter
    def step(self, number: int) -> None:
        self._step = number
        _STEP.pack_into(self._memory, 0, number)
        self.count += 1

    @property
    def place(self) -> Tuple[int, str]:
        """Step and phase."""
        return self._step, self._phase

    def enter(self, phase: str) -> None:
        """From here on this process is in `phase`: a few words for the user."""
        text = self._texts.get(phase)
        if text is None:
            text = self._texts[phase] = phase.encode()[:_TEXT].ljust(_TEXT)
        self._phase = phase
        self._memory[_STEP.size :] = text
        self.count += 1

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Within the block, in the thread that trains, this process is in phase `name`."""
        before = self._phase
        self.enter(name)
        try:
            yield
        finally:
            self.enter(before)

    def progress(self) -> None:
        """Work goes on, though no phase, collective or step begins or ends: to be called in what takes minutes."""
        self.count += 1

    def note(self, group: Any, operation: str) -> None:
        """A collective begins."""
        group.calls += 1
        thread = get_ident()
        if thread == self.home:
            self.group, self.operation = group, operation
        if not self._busy or not self._has_delegated(thread):
            self.count += 1

    @contextlib.contextmanager
    def waiting(self, what: str, ranks: Ranks) -> Iterator[None]:
        """Within the block this thread does nothing but wait for other ranks."""
        thread = get_ident()
        before = self.waits.get(thread)
        self.waits[thread] = Wait(what, ranks)
        try:
            yield
        finally:
            _put_back(self.waits, thread, before)
            if not self._has_delegated(thread):
                self.count += 1

    @contextlib.contextmanager
    def delegated(self, busy: Busy = lambda: True) -> Iterator[None]:
        """Within the block this thread waits for another one of this process, whose doings count instead; the signs of
        life that it gives the other ranks meanwhile are no progress.

        Args:
            busy: whether the other thread is still at work. If it is not, all is as without the block.
        """
        thread = get_ident()
        before = self._busy.get(thread)
        self._busy[thread] = busy
        try:
            yield
        finally:
            _put_back(self._busy, thread, before)

    def _has_delegated(self, thread: int) -> bool:
        """Whether another thread's doings count in place of this one's."""
        busy = self._busy.get(thread)
        return busy is not None and busy()

    def turns(self) -> Dict[str, int]:
        """How many collectives of each group whose waiting the program does not see have begun."""
        groups = [reference() for reference in list(self.unseen)]
        return {group.key: group.turns for group in groups if group is not None}

    def wait(self) -> Optional[Wait]:
        """What this process waits in, if it does nothing but wait for other ranks."""
        if not self._has_delegated(self.home):
            return self.waits.get(self.home)
        waits = dict(self.waits)  # other threads change it
        return next((wait for thread, wait in waits.items() if not self._has_delegated(thread)), None)

    def share(self) -> None:
        """Put step and phase where other processes of this host can read them: it leaves nothing behind, however this
        one ends."""
        if self.page is not None or not hasattr(os, "memfd_create"):
            return
        with contextlib.suppress(OSError):
            descriptor = os.memfd_create("heartbeat", os.MFD_CLOEXEC)
            os.ftruncate(descriptor, _PAGE)
            self._use(memoryview(mmap.mmap(descriptor, _PAGE)))
            self.page = os.getpid(), descriptor

    def part_from_parent(self) -> None:
        """In a forked child: what it does is not what its parent does."""
        self.page = None
        self._use(memoryview(bytearray(_PAGE)))

    def _use(self, memory: memoryview) -> None:
        memory[:] = self._memory
        self._memory = memory


def _put_back(table: Dict[int, Any], thread: int, before: Any) -> None:
    if before is None:
        del table[thread]
    else:
        table[thread] = before


def peek(page: Sequence[int]) -> Optional[Tuple[int, str]]:
    """Step and phase of another process of this host, from its `Heartbeat.page`; None if they can't be read."""
    process, descriptor = page
    try:
        with open(f"/proc/{process}/fd/{descriptor}", "rb", buffering=0) as file:
            data = file.read(_PAGE)
    except OSError:
        return None
    if len(data) != _PAGE:
        return None
    return _STEP.unpack_from(data)[0], data[_STEP.size :].decode(errors="replace").strip()


beat = Heartbeat()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=beat.part_from_parent)
