"""Who builds: a lock file that says whose it is and shows that its owner lives, on file systems of any kind.

The file names host, process and start of the process. While it is held, a helper process sets its time of change every
second: the interpreter may be busy for minutes in one call, the helper is not, and it ends with its parent. Whether an
owner lives is known at once on its own host; elsewhere, it is dead when the file has not changed for some seconds, by
the clock of the one who looks.

A lock of a dead owner is moved aside by whoever wants it next. Should two do so at the same moment, one of them loses
what it has taken, which `held` tells it; so ask that before results get their names.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from typing import Optional, Tuple

from paddlenlp.utils.files import parse_json

SILENCE = 6.0
"""Seconds without a sign of life after which an owner on another host is dead."""

_SIGNS_OF_LIFE = """
import os, select, sys
lock, parent = int(sys.argv[1]), int(sys.argv[2])
while os.getppid() == parent and not select.select([0], [], [], 1.0)[0]:
    os.utime(lock)
"""


def host_identity() -> str:
    """This host, or rather the processes that can see each other: name, boot and process namespace."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            parts.append(file.read().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _start_of(process: int) -> Optional[str]:
    """When a process of this host started, as the kernel counts; "" if that is not known, None if it does not run."""
    try:
        with open(f"/proc/{process}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        try:
            os.kill(process, 0)
        except (ProcessLookupError, OverflowError):
            return None
        except OSError:
            return ""
        return ""
    return None if fields[0] in (b"Z", b"X") else fields[19].decode()


class BuildLock:
    """The lock `path`, held by this process. Use it as a context manager: it is given back at the end."""

    def __init__(self, path: str, content: bytes, descriptor: int) -> None:
        self.path = path
        self._content = content
        self._descriptor = descriptor
        self._helper = self._start_helper()

    def _start_helper(self) -> Optional[subprocess.Popen]:
        command = [sys.executable, "-I", "-S", "-c", _SIGNS_OF_LIFE, str(self._descriptor), str(os.getpid())]
        try:
            return subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[self._descriptor],
                start_new_session=True,
            )
        except (OSError, ValueError):  # no interpreter to be found: others take an owner on another host for dead
            return None

    def held(self) -> bool:
        """Whether the lock is still this process's."""
        return _look(self.path)[0] == self._content

    def __enter__(self) -> BuildLock:
        return self

    def __exit__(self, *_: object) -> None:
        if self._helper is not None:
            self._helper.kill()
            self._helper.communicate()
        with contextlib.suppress(OSError):
            if self.held():
                os.unlink(self.path)
        os.close(self._descriptor)


class LockFile:
    """A lock as this process sees it: whose it is and since when it has not changed.

    Attributes:
        dead: whether it was held and its owner has ended, at the last look.
        owner: host and process, for the user; "" where nobody holds it.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.dead = False
        self.owner = ""
        self._seen: Tuple[Optional[bytes], int] = (None, 0)
        self._since = time.monotonic()

    def look(self) -> bool:
        """Whether somebody holds it, dead or alive."""
        now = _look(self.path)
        if now != self._seen:
            self._seen, self._since = now, time.monotonic()
        content = now[0]
        self.dead = content is not None and self._has_ended(content)
        return content is not None

    def _has_ended(self, content: bytes) -> bool:
        try:
            owner = parse_json(content)
            host, process, start = str(owner["host"]), int(owner["process"]), str(owner["start"])
        except (ValueError, KeyError, TypeError):  # not yet, or never, written whole
            host, process, start = "", 0, ""
        self.owner = f"process {process} on {host.partition(' ')[0]}" if host else "a process without a name"
        if host != host_identity():
            return time.monotonic() - self._since > SILENCE
        found = _start_of(process)
        return found is None or (bool(start) and bool(found) and start != found)

    def take(self) -> Optional[BuildLock]:
        """Take it if nobody alive holds it; None if somebody does.

        Raises:
            OSError: it cannot be written here.
        """
        if self.look() and not (self.dead and self._move_aside()):
            return None
        owner = {
            "host": host_identity(),
            "process": os.getpid(),
            "start": _start_of(os.getpid()) or "",
            "key": secrets.token_hex(8),
        }
        content = json.dumps(owner).encode()
        try:
            descriptor = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            return None
        try:
            os.write(descriptor, content)
        except OSError:
            os.close(descriptor)
            with contextlib.suppress(OSError):
                os.unlink(self.path)
            raise
        return BuildLock(self.path, content, descriptor)

    def _move_aside(self) -> bool:
        """Whether the lock of the dead owner is out of the way. One that was taken meanwhile is put back."""
        aside = f"{self.path}.{secrets.token_hex(8)}"
        try:
            os.rename(self.path, aside)
        except FileNotFoundError:
            return True
        mine = _look(aside)[0] == self._seen[0]
        if not mine:
            with contextlib.suppress(OSError):
                os.link(aside, self.path)
        with contextlib.suppress(OSError):
            os.unlink(aside)
        return mine


def _look(path: str) -> Tuple[Optional[bytes], int]:
    """Content and time of change; (None, 0) where there is none. Network file systems ask the server at each open."""
    try:
        with open(path, "rb") as file:
            return file.read(), os.fstat(file.fileno()).st_mtime_ns
    except OSError:
        return None, 0
