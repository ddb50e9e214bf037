"""Makes the n-th system call that writes below a folder fail, whoever makes it: Python, NumPy, Paddle, any thread.

    faults = Faults.begin(folder, record)  # early: before threads are started
    faults.arm(7, errno.ENOSPC, lasting=True)
    ...                                # the 7th call from here on fails, and all later ones
    calls = faults.disarm()            # how many there were; file `record` names them

The kernel asks a second process about each such call (seccomp user notification, Linux 5.5), and that one lets it
through or answers with an error. A process keeps the filter for good, so give it one of its own.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import platform
import re
import signal
import socket
import struct
import sys
from typing import Dict, List, NamedTuple, Optional, Tuple

AT_FDCWD = -100
_NO_NEW_PRIVILEGES, _PARENT_DEATH, _TRACER = 38, 1, 0x59616D61
_SECCOMP, _SET_FILTER, _NEW_LISTENER = 317, 1, 8
_ALLOW, _ASK = 0x7FFF0000, 0x7FC00000
_RECEIVE, _SEND, _LET_THROUGH = 0xC0502100, 0xC0182101, 1
_X86_64 = 0xC000003E
_CREATES, _WRITES = os.O_CREAT, os.O_WRONLY | os.O_RDWR


class Call(NamedTuple):
    """A system call: its name, which argument is the descriptor written to, and which (folder, path) pairs it changes;
    folder -1: that of the process."""

    name: str
    descriptor: Optional[int] = None
    paths: Tuple[Tuple[int, int], ...] = ()
    flags: Optional[int] = None
    """Argument that holds the flags of an opening."""
    frees: bool = False
    """It takes no room, so a full disk does not refuse it."""


CALLS: Dict[int, Call] = {
    1: Call("write", 0),
    18: Call("pwrite", 0),
    20: Call("writev", 0),
    296: Call("pwritev", 0),
    328: Call("pwritev2", 0),
    40: Call("sendfile", 0),
    326: Call("copy_file_range", 2),
    74: Call("fsync", 0),
    75: Call("fdatasync", 0),
    77: Call("ftruncate", 0),
    285: Call("fallocate", 0),
    2: Call("open", paths=((-1, 0),), flags=1),
    257: Call("openat", paths=((0, 1),), flags=2),
    83: Call("mkdir", paths=((-1, 0),)),
    258: Call("mkdirat", paths=((0, 1),)),
    82: Call("rename", paths=((-1, 0), (-1, 1))),
    264: Call("renameat", paths=((0, 1), (2, 3))),
    316: Call("renameat2", paths=((0, 1), (2, 3))),
    87: Call("unlink", paths=((-1, 0),), frees=True),
    263: Call("unlinkat", paths=((0, 1),), frees=True),
    84: Call("rmdir", paths=((-1, 0),), frees=True),
}

FULL = (errno.ENOSPC, errno.EDQUOT)


def unavailable() -> Optional[str]:
    """Why this machine can't do it; None if it can."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "the numbers of the system calls are those of Linux on x86-64"
    child = os.fork()
    if child == 0:
        try:
            os.close(_install())
            os._exit(0)
        except OSError:
            os._exit(1)
    return "the kernel does not permit seccomp user notification" if os.waitpid(child, 0)[1] else None


class Faults:
    """The failures of one process; see the module."""

    _ORDER = struct.Struct("qqqq200s")  # number of the order, at, error, lasting, pattern: written by the process
    _STATE = struct.Struct("qqq2000s")  # number of the order, calls, failures, what failed: by the one that watches

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, self._ORDER.size + self._STATE.size)
        self._orders = 0

    @classmethod
    def begin(cls, folder: str, record: str) -> Faults:
        """Have the system calls of this process below `folder` watched from here on; file `record` gets their names."""
        faults, root = cls(), os.path.realpath(folder)
        here, there = socket.socketpair()
        watched, watcher = os.getpid(), os.fork()
        if watcher == 0:
            ctypes.CDLL(None).prctl(_PARENT_DEATH, signal.SIGKILL)
            here.close()
            os._exit(faults._watch(there, root, record))
        there.close()
        ctypes.CDLL(None).prctl(_TRACER, watcher, 0, 0, 0)
        listener = _install()
        socket.send_fds(here, [struct.pack("q", watched)], [listener])
        os.close(listener)
        here.close()
        return faults

    def arm(self, at: int, error: int = errno.EIO, lasting: bool = False, pattern: str = "") -> None:
        """Let the `at`-th call from now on (from 1; 0: none) fail with `error`; all later ones too if `lasting`.

        Args:
            pattern: count only calls whose line in the record ("write out/metrics.jsonl") begins with a match of it.
        """
        self._orders += 1
        self._ORDER.pack_into(self._shared, 0, self._orders, at, error, lasting, pattern.encode())

    def disarm(self) -> int:
        """Let everything through; the number of calls since `arm` (with a `pattern`: from the first it describes)."""
        calls = self._state(self._orders)[0]
        self.arm(0)
        return calls

    @property
    def failed(self) -> List[str]:
        """The first calls that failed since `arm`, as in the record."""
        return self._state(self._orders)[2].decode().splitlines()

    def _state(self, order: int) -> Tuple[int, int, bytes]:
        """Calls, failures and what failed, since an order was given."""
        of_order, calls, failures, said = self._STATE.unpack_from(self._shared, self._ORDER.size)
        return (calls, failures, said.rstrip(b"\0")) if of_order == order else (0, 0, b"")

    def _watch(self, there: socket.socket, root: str, record: str) -> int:
        """What the second process does: decide about each call until the first has ended."""
        self._record = open(record, "w", buffering=1)  # noqa: SIM115
        _, descriptors, _, _ = socket.recv_fds(there, 8, 1)
        asked = bytearray(80)
        while True:
            asked[:] = bytes(80)
            try:
                fcntl.ioctl(descriptors[0], _RECEIVE, asked)
            except InterruptedError:
                continue
            except OSError as error:
                if error.errno == errno.ENOENT:  # the caller was killed meanwhile
                    continue
                return 0
            number, thread, _, call = struct.unpack_from("QIIi", asked)
            arguments = struct.unpack_from("6Q", asked, 32)
            refusal = self._judge(root, thread, CALLS[call], arguments)
            answer = struct.pack("QqiI", number, 0, -refusal, 0 if refusal else _LET_THROUGH)
            try:
                fcntl.ioctl(descriptors[0], _SEND, bytearray(answer))
            except OSError:
                continue

    def _judge(self, root: str, thread: int, call: Call, arguments: Tuple[int, ...]) -> int:
        path = _path(root, thread, call, arguments)
        if path is None:
            return 0
        line = f"{call.name} {os.path.relpath(path, root)}"
        self._record.write(f"{line}\n")
        order, at, error, lasting, pattern = self._ORDER.unpack_from(self._shared)
        calls, failures, said = self._state(order)
        if not failures and not re.match(pattern.rstrip(b"\0").decode(), line):
            return 0
        calls += 1
        refuses = at and calls >= at and (lasting or not failures) and not (call.frees and error in FULL)
        if refuses and failures < 10:
            said += f"{line}\n".encode()
        self._STATE.pack_into(self._shared, self._ORDER.size, order, calls, failures + bool(refuses), said)
        return int(error) if refuses else 0


def _path(root: str, thread: int, call: Call, arguments: Tuple[int, ...]) -> Optional[str]:
    """What the call writes to, if that lies below `root`."""
    try:
        if call.descriptor is not None:
            found = [os.readlink(f"/proc/{thread}/fd/{ctypes.c_int(arguments[call.descriptor]).value}")]
        elif call.flags is not None and not arguments[call.flags] & (_CREATES | _WRITES):
            return None
        else:
            found = [_named(thread, arguments, *place) for place in call.paths]
    except OSError:
        return None
    return next((path for path in found if path.startswith(root + os.sep)), None)


def _named(thread: int, arguments: Tuple[int, ...], folder: int, place: int) -> str:
    with open(f"/proc/{thread}/mem", "rb", buffering=0) as memory:
        memory.seek(arguments[place])
        name = os.fsdecode(memory.read(4096 - arguments[place] % 4096).partition(b"\0")[0])
    descriptor = AT_FDCWD if folder < 0 else ctypes.c_int(arguments[folder]).value
    at = f"/proc/{thread}/cwd" if descriptor == AT_FDCWD else f"/proc/{thread}/fd/{descriptor}"
    return name if os.path.isabs(name) else os.path.normpath(os.path.join(os.readlink(at), name))


class _Instruction(ctypes.Structure):
    _fields_ = [("code", ctypes.c_ushort), ("yes", ctypes.c_ubyte), ("no", ctypes.c_ubyte), ("value", ctypes.c_uint)]


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(_Instruction))]


def _install() -> int:
    """Put the filter on this thread and those that it starts; the descriptor on which the kernel asks."""
    load, equal, answer = 0x20, 0x15, 0x06
    numbers = sorted(CALLS)
    lines = [_Instruction(load, 0, 0, 4), _Instruction(equal, 1, 0, _X86_64), _Instruction(answer, 0, 0, _ALLOW)]
    lines.append(_Instruction(load, 0, 0, 0))
    lines += [_Instruction(equal, len(numbers) - place, 0, number) for place, number in enumerate(numbers)]
    lines += [_Instruction(answer, 0, 0, _ALLOW), _Instruction(answer, 0, 0, _ASK)]
    program = _Program(len(lines), (_Instruction * len(lines))(*lines))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    descriptor = libc.syscall(_SECCOMP, _SET_FILTER, _NEW_LISTENER, ctypes.byref(program))
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "no seccomp user notification")
    return int(descriptor)
