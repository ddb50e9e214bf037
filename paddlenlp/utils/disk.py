"""Room on a disk, as far as this user may fill it, and what to say when a write fails."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
from pathlib import Path
from typing import Dict, Optional

from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.files import PathLike

_QUOTACTL_FD = 443
"""Number of the system call, on every architecture (Linux 5.14; `man 2 quotactl`)."""

_GET_QUOTA = 0x800007
_USER, _GROUP = 0, 1
_LIMITS_HOLD = 1

_ADVICE: Dict[int, str] = {
    errno.ENOSPC: "Free some space or choose another folder.",
    errno.EDQUOT: "Your disk quota is used up: remove files of yours or have it raised.",
    errno.EROFS: "The file system is mounted read-only, perhaps after an error of the disk: see the system's log.",
    errno.EIO: "The device or the network file system reported an error: see the system's log.",
}


class _Quota(ctypes.Structure):
    """`struct if_dqblk` of <linux/quota.h>: limits in blocks of 1024 bytes, usage in bytes."""

    _fields_ = [
        ("hard_blocks", ctypes.c_uint64),
        ("soft_blocks", ctypes.c_uint64),
        ("used_bytes", ctypes.c_uint64),
        ("unused", ctypes.c_uint64 * 5),
        ("valid", ctypes.c_uint32),
    ]


def free_bytes(path: PathLike) -> int:
    """Bytes that this user can still write where `path` is or will be.

    The file system says how many it has left, which includes quotas of projects; quotas of users and groups count where
    the kernel tells them. Those that a file server keeps to itself cannot be seen.
    """
    there = next(folder for folder in (Path(path), *Path(path).absolute().parents) if folder.exists())
    quotas = [left for left in (_left(there, _USER), _left(there, _GROUP)) if left is not None]
    return min([shutil.disk_usage(there).free, *quotas])


def _left(path: Path, kind: int) -> Optional[int]:
    """What the quota of this user or group leaves; None if there is none, or none to be seen."""
    quota = _quota(path, kind)
    if quota is None or not quota.valid & _LIMITS_HOLD or not quota.hard_blocks:
        return None
    return max(0, quota.hard_blocks * 1024 - quota.used_bytes)


def _quota(path: Path, kind: int) -> Optional[_Quota]:
    if not sys.platform.startswith("linux") or os.geteuid() == 0:  # root is not held to quotas
        return None
    quota, owner = _Quota(), os.geteuid() if kind == _USER else os.getegid()
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # a folder that one may write to and not list
        return None
    try:
        refused = ctypes.CDLL(None).syscall(
            _QUOTACTL_FD, descriptor, _GET_QUOTA << 8 | kind, owner, ctypes.byref(quota)
        )
    finally:
        os.close(descriptor)
    return None if refused else quota


def write_failed(path: PathLike, error: OSError, needed: Optional[int] = None, what: str = "this file") -> UsageError:
    """The error to raise when writing `path` failed: what is wrong, the room there is, and what to do.

    Args:
        needed: bytes that were to be written, where that is known.
        what: was to be written.
    """
    cause = error.strerror or str(error)
    where = f" ({error.filename})" if error.filename and str(error.filename) != str(path) else ""
    needs = "" if needed is None else f"It needs {needed:,} bytes, "
    advice = _ADVICE.get(error.errno or 0, "See that the folder is there and can be written to.")
    return UsageError(f"{path}: cannot write {what}: {cause}{where}. {needs}{room(path)}. {advice}")


def room(path: PathLike) -> str:
    """How many bytes are free at `path`, in words; also where that cannot be found out."""
    try:
        return f"{free_bytes(path):,} bytes are free"
    except OSError as error:
        return f"how many bytes are free cannot be found out ({error.strerror})"
