"""Reads from storage that fail for a moment, as network file systems do: tried again after growing pauses."""

from __future__ import annotations

import errno
import time
from typing import Callable, TypeVar

from paddlenlp.utils.files import PathLike
from paddlenlp.utils.log import logger

Value = TypeVar("Value")

TRANSIENT = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNRESET, errno.EREMOTEIO, errno.EAGAIN)
"""Errors that a second look may not meet again."""

FIRST_PAUSE = 0.1
"""Seconds before the first new try; twice as many before each further one."""


class Retries:
    """How often a failed read is tried again, and how often that was needed.

    Attributes:
        limit: new tries for one read.
        total: new tries since the process began.
    """

    def __init__(self, limit: int = 3) -> None:
        self.limit = limit
        self.total = 0


retries = Retries()
"""Those of this process; `read_retries` of the arguments sets the limit."""


def retrying(read: Callable[[], Value], path: PathLike) -> Value:
    """What `read`, which reads file `path`, returns. It is called again after an error that may be over by then.

    Raises:
        OSError: the last one, or one that trying again does not cure.
    """
    for number in range(retries.limit):
        try:
            return read()
        except OSError as error:
            if error.errno not in TRANSIENT:
                raise
            pause = FIRST_PAUSE * 2**number
            retries.total += 1
            logger.warning(
                f"{path}: reading failed ({error.strerror}); trying again in {pause:g} s, time {number + 1} of "
                f"{retries.limit} ({retries.total} in this process so far)"
            )
            time.sleep(pause)
    return read()
