"""Locks on files that the kernel keeps: they end with their process, however it ends, and need no clearing."""

from __future__ import annotations

from typing import IO, Any


class LockedByOther(OSError):
    """Another process has the lock."""


def lock_file(file: IO[Any]) -> None:
    """Lock an open, writable file until it is closed or this process ends. Forked children do not have the lock.

    Closing any other handle of this file in this process gives the lock up too (fcntl(2)): open it once.

    Raises:
        LockedByOther: another process has it.
        OSError: locks are not to be had on this system or file system.
    """
    try:
        import fcntl
    except ImportError as error:
        raise OSError("this system has no such locks") from error
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        raise LockedByOther(error.errno, error.strerror) from None
