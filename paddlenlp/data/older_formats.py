"""Readers of the two older formats: "lazy" (.bin/.idx, TNTIDX) and the legacy `_ids.npy` + `_idx.npz` pair."""

from __future__ import annotations

import os
import struct
from typing import List
from zipfile import BadZipFile

import numpy as np

from paddlenlp.data.indexed_dataset import LAZY_MAGIC, MAGIC
from paddlenlp.data.layout_checks import check_data_length, check_documents, check_sequences, refuse, require_files
from paddlenlp.data.mapped import map_file, map_npy
from paddlenlp.data.sidecar import check_sidecar
from paddlenlp.data.token_store import DTYPES, TokenStore
from paddlenlp.utils.errors import UsageError

LAZY_HEADER = struct.Struct("<8sQQQQQQ")


class IndexedDataset(TokenStore):
    """The lazy format `{path}.bin` / `{path}.idx`: offsets are stored in tokens and every item has its own shape.

    Raises:
        UsageError: the pair is incomplete, broken, does not fit, or holds items of more than one dimension.
    """

    def __init__(self, path: str) -> None:
        path = os.fspath(path)
        index_path, data_path = path + ".idx", path + ".bin"
        require_files([index_path, data_path], path)
        dtype, items, sizes_count, documents = _read_lazy_header(index_path)
        dims, offsets, sizes, doc_idx = _lazy_arrays(index_path, items, sizes_count, documents)
        if sizes_count != items or not np.array_equal(dims, np.arange(items + 1)):
            raise refuse(index_path, "its items are not rows of tokens", "1 dimension each", "several dimensions")
        pointers = offsets[:-1] * dtype.itemsize
        total = check_sequences(index_path, sizes, pointers, dtype)
        check_data_length(data_path, index_path, total, dtype)
        check_documents(index_path, doc_idx, items)
        super().__init__(path, map_file(data_path, dtype), sizes, pointers, doc_idx)
        check_sidecar(self, data_path)


def _read_lazy_header(index_path: str) -> tuple:
    """`(dtype, items, sizes, documents)` of a lazy .idx file whose header and length are in order."""
    length = os.path.getsize(index_path)
    with open(index_path, "rb") as file:
        raw = file.read(LAZY_HEADER.size)
    if raw.startswith(MAGIC):
        raise refuse(index_path, "it is of the mmap format", "a lazy index", "MMIDIDX", "Set --data_impl mmap.")
    if not raw.startswith(LAZY_MAGIC) or len(raw) < LAZY_HEADER.size:
        raise refuse(index_path, "it does not start as a lazy index does", LAZY_MAGIC, raw[: len(LAZY_MAGIC)])
    _, version, code, itemsize, items, sizes, documents = LAZY_HEADER.unpack(raw)
    if version != 1 or code not in DTYPES or DTYPES[code].itemsize != itemsize:
        raise refuse(
            index_path,
            "its header is not known",
            "version 1, dtype code 1 to 10 and the item size of that type",
            f"version {version}, code {code}, item size {itemsize}",
        )
    expected = LAZY_HEADER.size + 16 * (items + 1) + 4 * sizes + 8 * documents
    if length != expected:
        raise refuse(index_path, "its length does not fit its header", f"{expected:,} bytes", f"{length:,} bytes")
    return DTYPES[code], items, sizes, documents


def _lazy_arrays(index_path: str, items: int, sizes: int, documents: int) -> List[np.ndarray]:
    """Dimension offsets, data offsets, sizes and document index, in the order they are stored."""
    buffer = map_file(index_path)
    arrays, position = [], LAZY_HEADER.size
    for dtype, count in (("<i8", items + 1), ("<i8", items + 1), ("<i4", sizes), ("<i8", documents)):
        arrays.append(np.frombuffer(buffer, dtype, count, position))
        position += arrays[-1].nbytes
    return arrays


class CompatibleIndexedDataset(TokenStore):
    """The legacy pair: `{path}_ids.npy` (all tokens, 1-D) and `{path}_idx.npz` (arrays "lens" and "docs").

    Raises:
        UsageError: the pair is incomplete, unreadable or does not fit.
    """

    def __init__(self, path: str) -> None:
        path = os.fspath(path)
        index_path, data_path = path + "_idx.npz", path + "_ids.npy"
        require_files([index_path, data_path], path)
        try:
            tokens = map_npy(data_path)
            with np.load(index_path) as index:
                sizes, doc_idx = index["lens"].astype(np.int32), index["docs"].astype(np.int64)
        except (ValueError, KeyError, OSError, BadZipFile) as error:
            raise UsageError(f"{data_path} or {index_path} cannot be read: {error}. Copy both files again.") from None
        if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
            raise refuse(data_path, "it is not a row of token ids", "1-D integers", f"{tokens.shape} {tokens.dtype}")
        if sizes.ndim != 1 or doc_idx.ndim != 1:
            raise refuse(
                index_path, "its arrays are no rows", "1-D lens and docs", f"{sizes.shape} and {doc_idx.shape}"
            )
        pointers = np.zeros(len(sizes), np.int64)
        np.cumsum(sizes[:-1], dtype=np.int64, out=pointers[1:])
        pointers *= tokens.dtype.itemsize
        total = check_sequences(index_path, sizes, pointers, tokens.dtype)
        if total != tokens.nbytes:
            expected = f"{total // tokens.dtype.itemsize:,} tokens"
            raise refuse(data_path, f"its length does not fit {index_path}", expected, f"{len(tokens):,} tokens")
        check_documents(index_path, doc_idx, len(sizes))
        super().__init__(path, tokens, sizes, pointers, doc_idx)

    @staticmethod
    def exists(path: str) -> bool:
        """Whether both files are there."""
        return os.path.isfile(path + "_ids.npy") and os.path.isfile(path + "_idx.npz")
