"""What one rank does alone, for minutes perhaps, while the others wait for it and hand it what it asks for.

Writing a checkpoint is such an errand: rank 0 writes, hashes and syncs files; the others send their parts of a tensor
when its turn comes. If rank 0 fails, all ranks fail with its message, and none waits for ever. So that none gives up
waiting either, rank 0 does the work in a thread of its own and sends a sign of life now and then.
"""

from __future__ import annotations

from concurrent.futures import Future
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Callable, List, Sequence, Tuple, TypeVar

import paddle
from paddle import Tensor

from paddlenlp.utils.errors import UsageError

from .group import Group
from .heartbeat import beat
from .objects import Line, as_group, from_first, message_of

Value = TypeVar("Value")
Result = TypeVar("Result")

BEAT = 10.0
"""Seconds between two signs of life."""

_OVER, _BUSY = -1, -2


class Errand:
    """One errand of the first rank along an axis.

    Args:
        axis: whose ranks take part; all of the job if None.
        parts: what this rank can be asked for, by number: functions that return a tensor.
    """

    def __init__(self, axis: Line = None, parts: Sequence[Callable[[], Tensor]] = ()) -> None:
        self._group: Group = as_group(axis)
        self._parts = parts
        self._jobs: SimpleQueue = SimpleQueue()
        self._served = False

    def run(self, action: Callable[[], Value]) -> Value:
        """What `action`, carried out on the first rank only, returns there; every rank of the axis calls this.

        Returns:
            The value of `action`, which must be what JSON can hold.

        Raises:
            UsageError: it failed; on every rank. (The first one raises the error as it was.)
        """
        if self._group.size == 1:
            return action()
        if self._group.rank:
            self._serve()
            told: Any = from_first(None, self._group)
            value, error = told
            if error is not None:
                raise UsageError(error)
            return value
        return self._lead(action)

    def lent(self, job: Callable[[], Result]) -> Result:
        """Within `action`: what `job` returns, carried out by the thread that communicates for this rank."""
        if self._group.size == 1:
            return job()
        result: Future = Future()
        self._jobs.put((job, result))
        if not self._served:
            raise InterruptedError("this process was interrupted")
        return result.result()

    def ask(self, wanted: Sequence[Tuple[int, int, int, str]]) -> List[Tensor]:
        """Within a `lent` job: parts of other ranks, flat.

        Args:
            wanted: (rank on the axis, number of the part, its elements, its dtype) of each.
        """
        for rank, number, _, _ in wanted:
            self._tell(rank, number)
        coming = [self._group.receive([size], dtype, rank) for rank, _, size, dtype in wanted]
        return [part.wait() for part in coming]

    def _tell(self, rank: int, word: int) -> None:
        self._group.send(paddle.to_tensor([word], "int64"), rank).wait()

    def _tell_all(self, word: int) -> None:
        for rank in range(1, self._group.size):
            self._tell(rank, word)

    def _serve(self) -> None:
        """Hand out parts until the errand is over."""
        while True:
            word = int(self._group.receive([1], "int64", 0).wait())
            if word == _OVER:
                return
            if word != _BUSY:
                self._group.send(self._parts[word]().detach().reshape([-1]).contiguous(), 0).wait()

    def _lead(self, action: Callable[[], Value]) -> Value:
        self._served = True
        outcome: Future = Future()
        thread = Thread(target=_carry_out, args=(action, outcome, self._jobs), name="errand")
        thread.start()
        try:
            self._work(outcome)
        finally:  # an interrupted rank 0 ends the errand for the others too
            self._give_up()
            thread.join()
            self._tell_all(_OVER)
            error = outcome.exception()
            tell: Any = (outcome.result(), None) if error is None else (None, message_of(error))
            from_first(tell, self._group)
        return outcome.result()

    def _work(self, outcome: Future) -> None:
        """Do the jobs of the errand's thread until it is done."""
        while not outcome.done():
            with beat.delegated():
                try:
                    job, result = self._jobs.get(timeout=BEAT)
                except Empty:
                    self._tell_all(_BUSY)
                    continue
            if job is not None:
                _carry_out(job, result)

    def _give_up(self) -> None:
        """Let no job wait any more: there is none left, or this thread was interrupted."""
        self._served = False
        while not self._jobs.empty():
            _, result = self._jobs.get()
            if result is not None:
                result.set_exception(InterruptedError("this process was interrupted"))


def _carry_out(job: Callable[[], Any], result: Future, bell: Any = None) -> None:
    """Run `job` and keep what it returns or raises; then ring the bell of the thread that waits."""
    try:
        result.set_result(job())
    except BaseException as error:
        result.set_exception(error)
    if bell is not None:
        bell.put((None, None))


def first_does(action: Callable[[], Value], axis: Line = None) -> Value:
    """What `action` returns on the first rank along `axis`, which alone carries it out while the others wait.

    Raises:
        UsageError: it failed there; on every rank.
    """
    return Errand(axis).run(action)
