"""Reading what may take long to come, while signals are heard."""

from __future__ import annotations

from concurrent.futures import Future, wait
from queue import SimpleQueue
from threading import Thread
from typing import Any, Iterator, Optional

import paddle

from paddlenlp.parallel import signals
from paddlenlp.parallel.heartbeat import beat

BEAT = 0.2
"""Seconds between two looks whether a signal has come."""


class Reader:
    """Takes items from iterators in a thread of its own: Paddle's data loader waits for its data deaf to signals.

    All ranks of the job read an item together. While one of them waits for its data the others wait for it, each taking
    part in an exchange every now and then, so that they all hear of a signal to any of them.

    It is a context manager; the thread ends with the context, or when the item comes that it waits for.
    """

    def __init__(self) -> None:
        self._wanted: SimpleQueue = SimpleQueue()
        self._thread: Optional[Thread] = None

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._wanted.put(None)

    def read(self, items: Iterator[Any]) -> Any:
        """The next item; None behind the last one.

        Raises:
            signals.Agreed: a signal has come to one of the ranks, within `signals.deferred`. Then `items` must not be
                used any more.
        """
        if not signals.is_deferred():
            return next(items, None)
        if self._thread is None:
            self._thread = Thread(target=_serve, args=(self._wanted, paddle.get_device()), name="reading", daemon=True)
            self._thread.start()
        item: Future = Future()
        self._wanted.put((items, item))
        try:
            while not _all_have(item):
                pass
        except signals.Agreed:
            if not item.done():
                signals.leave_behind()
            raise
        return item.result()


def _all_have(item: Future) -> bool:
    """Whether the item has come here and on the other ranks, after a while."""
    if item.done():
        with beat.waiting("reading data", tuple):
            return signals.heed()
    with beat.delegated(lambda: not item.done()):
        return signals.heed(bool(wait([item], BEAT).done))


def _serve(wanted: SimpleQueue, device: str) -> None:
    paddle.set_device(device)  # of this thread
    while True:
        order = wanted.get()
        if order is None:
            return
        items, item = order
        try:
            item.set_result(next(items, None))
        except BaseException as error:  # raised again by the thread that wants the item
            item.set_exception(error)
        del order, items, item
