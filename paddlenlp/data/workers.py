"""Worker processes of the tools: they end with the tool, and one that dies is one message."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Any, Callable, Iterator, Optional

from paddlenlp.utils.errors import UsageError


@contextmanager
def worker_pool(
    workers: int, prepare: Optional[Callable[..., None]] = None, *arguments: Any
) -> Iterator[ProcessPoolExecutor]:
    """Processes that carry out calls; what has not begun at the end of the block is given up.

    Args:
        prepare: called in each with `arguments` before the first call.

    Raises:
        UsageError: one of them died.
    """
    context = multiprocessing.get_context("spawn")  # forking is not safe once a library has threads
    pool = ProcessPoolExecutor(workers, context, _begin, (prepare, arguments))
    try:
        yield pool
    except BrokenProcessPool:
        raise UsageError("a worker process ended suddenly, most often for want of memory; try fewer workers") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(prepare: Optional[Callable[..., None]], arguments: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the first process, which then ends the others
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if prepare is not None:
        prepare(*arguments)


def _end_with_parent() -> None:
    """A worker never learns by itself that the process it works for was killed: it holds both ends of its queue."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
