"""Memory maps that hold no file descriptor, so that a job may read any number of datasets under any `ulimit -n`.

Python's `mmap`, and so `numpy.memmap`, keeps a duplicate of the descriptor for as long as the map lives. The kernel
needs none once the map is made (mmap(2), NOTES).
"""

from __future__ import annotations

import ctypes
import os
import weakref
from typing import Any

import numpy as np

from paddlenlp.utils.files import PathLike
from paddlenlp.utils.retries import retrying

_PROT_READ, _MAP_SHARED = 1, 1
_FAILED = ctypes.c_void_p(-1).value


def map_file(path: PathLike, dtype: Any = np.uint8) -> np.ndarray:
    """The content of file `path` as a read-only array of `dtype`, of which only what is read is loaded.

    Args:
        dtype: a rest of the file that is shorter than one item is left out.

    Raises:
        OSError: the file cannot be opened or mapped.
    """
    kind = np.dtype(dtype)
    content = retrying(lambda: _mapped(path), path)
    return content[: len(content) // kind.itemsize * kind.itemsize].view(kind)


def map_npy(path: PathLike) -> np.ndarray:
    """The array in .npy file `path`, read-only, of which only what is read is loaded.

    Raises:
        OSError: the file cannot be opened or mapped.
        ValueError: it is no .npy file, is cut off, or holds Python objects, which are not read.
    """
    with open(path, "rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, by_columns, dtype = read(file)
        except ValueError as error:
            raise ValueError(f"{path} is not a whole .npy file: {error}") from None
        start = file.tell()
    count = int(np.prod(shape, dtype=np.int64))
    size = os.path.getsize(path) - start
    if dtype.hasobject or size < count * dtype.itemsize:
        found = "Python objects" if dtype.hasobject else f"{size:,} bytes"
        raise ValueError(f"{path} should hold {count:,} numbers ({count * dtype.itemsize:,} bytes), found {found}")
    values = map_file(path)[start : start + count * dtype.itemsize].view(dtype)
    return values.reshape(shape, order="F" if by_columns else "C")


def _mapped(path: PathLike) -> np.ndarray:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(descriptor).st_size
        return _map(descriptor, size) if size else np.empty(0, np.uint8)
    finally:
        os.close(descriptor)


def _map(descriptor: int, size: int) -> np.ndarray:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    address = libc.mmap(None, size, _PROT_READ, _MAP_SHARED, descriptor, 0)
    if address == _FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    owner: Any = (ctypes.c_ubyte * size).from_address(address)
    weakref.finalize(owner, libc.munmap, address, size).atexit = False
    content = np.frombuffer(owner, np.uint8)
    content.flags.writeable = False
    return content
