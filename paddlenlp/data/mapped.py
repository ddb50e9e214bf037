"""Memory maps that hold no file descriptor, so that a job may read any number of datasets under any `ulimit -n`.

Python's `mmap`, and so `numpy.memmap`, keeps a duplicate of the descriptor for as long as the map lives. The kernel
needs none once the map is made (mmap(2), NOTES).
"""

from __future__ import annotations

import ctypes
import os
import sys
import weakref
from typing import Any, Dict

import numpy as np

from paddlenlp.utils.files import PathLike
from paddlenlp.utils.retries import retrying

_PROT_READ, _MAP_SHARED, _MADV_DONTNEED = 1, 1, 4
_PAGE = os.sysconf("SC_PAGESIZE") if hasattr(os, "sysconf") else 4096
_maps: Dict[int, int] = {}
"""Address -> bytes of the maps there are."""
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


def release_pages(content: np.ndarray) -> None:
    """Have the part of a mapped file that `content` is no longer count as memory of this process.

    It stays in the system's page cache while there is room, and is mapped again when it is read. Reading a large file
    once in order, block by block, so takes the memory of a block. Arrays that are no part of a mapped file are left
    alone, and so are all where the system is not Linux.
    """
    start, end = np.lib.array_utils.byte_bounds(content) if hasattr(np.lib, "array_utils") else np.byte_bounds(content)
    inside = next((at for at, size in list(_maps.items()) if at <= start and end <= at + size), None)
    if inside is None or sys.platform != "linux":
        return
    first = start // _PAGE * _PAGE
    libc = ctypes.CDLL(None)
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    libc.madvise(first, end - first, _MADV_DONTNEED)


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
    _maps[address] = size
    weakref.finalize(owner, _unmap, libc.munmap, address, size).atexit = False
    content = np.frombuffer(owner, np.uint8)
    content.flags.writeable = False
    return content


def _unmap(munmap: Any, address: int, size: int) -> None:
    del _maps[address]
    munmap(address, size)
