"""What every rank does for itself and at its own pace, such as opening data, and goes on from together."""

from __future__ import annotations

from concurrent.futures import Future, wait
from threading import Thread
from typing import Any, Callable, ContextManager, List, TypeVar

from paddlenlp.utils.errors import UsageError

from .group import Group
from .heartbeat import beat
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
    group = as_group(axis)
    if group.size == 1:
        return action()
    outcome: Future = Future()
    Thread(target=_carry_out, args=(action, outcome), name="all_do", daemon=True).start()
    late: List[int] = []
    while True:
        with _noting(outcome, group, late):
            wait([outcome], BEAT)
            over = outcome.done()
            error = outcome.exception() if over else None
            states = everyones([over, "" if error is None else message_of(error)], group)
        late = [rank for rank, (done, _) in zip(group.ranks, states) if not done]
        failed = [message for _, message in states if message]
        if error is not None:
            raise error
        if failed:
            raise UsageError(failed[0])
        if all(done for done, _ in states):
            return outcome.result()


def _noting(outcome: Future, group: Group, late: List[int]) -> ContextManager[None]:
    """For the watchdog: either this rank's part of the work is what counts, or it waits for the other ranks'."""
    if not outcome.done():
        return beat.delegated(lambda: not outcome.done())
    return beat.waiting(f"what all ranks of group {group.name} do at their own pace", lambda: late)


def _carry_out(action: Callable[[], Any], outcome: Future) -> None:
    try:
        outcome.set_result(action())
    except BaseException as error:  # raised again by the thread that waits
        outcome.set_exception(error)
