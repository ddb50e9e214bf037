"""What every rank does for itself and at its own pace, such as opening data, and goes on from together."""

from __future__ import annotations

from concurrent.futures import Future, wait
from threading import Thread
from typing import Any, Callable, TypeVar

from paddlenlp.utils.errors import UsageError

from .objects import Line, as_group, everyones, message_of

Value = TypeVar("Value")

BEAT = 1.0
"""Seconds between two looks at how far the ranks are."""


def all_do(action: Callable[[], Value], axis: Line = None) -> Value:
    """What `action` returns, once it is over on all ranks along `axis`; every one of them calls this.

    The ranks may take very different times: each says every second that it is still at work, so that none gives up
    waiting for another. `action` runs in a thread and must not communicate.

    Raises:
        UsageError: it failed on one of them: then on all, at once, with the first one's message. (A rank on which it
            failed itself raises that error.)
    """
    if as_group(axis).size == 1:
        return action()
    outcome: Future = Future()
    Thread(target=_carry_out, args=(action, outcome), name="all_do", daemon=True).start()
    while True:
        wait([outcome], BEAT)
        over = outcome.done()
        error = outcome.exception() if over else None
        states = everyones([over, "" if error is None else message_of(error)], axis)
        failed = [message for _, message in states if message]
        if error is not None:
            raise error
        if failed:
            raise UsageError(failed[0])
        if all(done for done, _ in states):
            return outcome.result()


def _carry_out(action: Callable[[], Any], outcome: Future) -> None:
    try:
        outcome.set_result(action())
    except BaseException as error:  # raised again by the thread that waits
        outcome.set_exception(error)
