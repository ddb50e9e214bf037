"""The memory-mapped token format `{prefix}.bin` + `{prefix}.idx`, checked when it is opened.

Layout of the .idx file, little-endian: magic (9 bytes), version 1 (u64), dtype code (u8), number of sequences N (u64),
length of the document index D (u64), sizes (int32 x N), pointers in bytes (int64 x N), document index (int64 x D).
"""

from __future__ import annotations

import os
import struct
from typing import Tuple

import numpy as np

from paddlenlp.data.layout_checks import check_data_length, check_documents, check_sequences, refuse, require_files
from paddlenlp.data.mapped import map_file
from paddlenlp.data.sidecar import check_sidecar
from paddlenlp.data.token_store import DTYPES, TokenStore
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.log import logger
from paddlenlp.utils.retries import retrying

MAGIC = b"MMIDIDX\x00\x00"
LAZY_MAGIC = b"TNTIDX\x00\x00"
VERSION = 1
HEADER = struct.Struct("<9sQBQQ")
_BIG_ENDIAN_ONE = 1 << 56
_WARM_UP_BYTES = 100 << 20


class MMapIndexedDataset(TokenStore):
    """The dataset `{path}.bin` / `{path}.idx`.

    Args:
        path: the prefix.
        skip_warmup: False reads both files once, so that training finds them in the page cache.

    Raises:
        UsageError: the pair is incomplete, broken or does not fit; names the file, what was expected and found.
    """

    def __init__(self, path: str, skip_warmup: bool = True) -> None:
        path = os.fspath(path)
        index_path, data_path = path + ".idx", path + ".bin"
        require_files([index_path, data_path], path)
        dtype, sequences, documents = _read_header(index_path)
        if not skip_warmup:
            warm_up(index_path)
            warm_up(data_path)
        buffer = map_file(index_path)
        sizes = np.frombuffer(buffer, "<i4", sequences, HEADER.size)
        pointers = np.frombuffer(buffer, "<i8", sequences, HEADER.size + 4 * sequences)
        doc_idx = np.frombuffer(buffer, "<i8", documents, HEADER.size + 12 * sequences)
        check_data_length(data_path, index_path, check_sequences(index_path, sizes, pointers, dtype), dtype)
        check_documents(index_path, doc_idx, sequences)
        super().__init__(path, map_file(data_path, dtype), sizes, pointers, doc_idx)
        check_sidecar(self, data_path)
        if os.path.isfile(path + ".lsm"):
            logger.info(f"{path}.lsm (loss mask) is ignored: pretraining learns from every token.")

    @staticmethod
    def exists(path: str) -> bool:
        """Whether both files are there."""
        return os.path.isfile(path + ".idx") and os.path.isfile(path + ".bin")


def _read_header(index_path: str) -> Tuple[np.dtype, int, int]:
    """`(dtype, sequences, length of the document index)`, once the header and the file's length are in order."""
    raw, length = retrying(lambda: _start_and_length(index_path), index_path)
    if raw.startswith(LAZY_MAGIC):
        raise refuse(index_path, "it is of the lazy format", "an mmap index", "TNTIDX", "Set --data_impl lazy.")
    if not raw.startswith(MAGIC):
        raise refuse(index_path, "it does not start as an index file does", MAGIC, raw[: len(MAGIC)])
    if length < HEADER.size:
        raise refuse(index_path, "its header is cut off", f"at least {HEADER.size} bytes", f"{length} bytes")
    _, version, code, sequences, documents = HEADER.unpack(raw)
    if version == _BIG_ENDIAN_ONE:
        raise refuse(index_path, "it was written big-endian", "little-endian numbers", "version 1 with bytes reversed")
    if version != VERSION:
        raise refuse(index_path, "its format version is not known", VERSION, version)
    if code not in DTYPES:
        raise refuse(index_path, "its dtype code is not known", f"one of {min(DTYPES)} to {max(DTYPES)}", code)
    expected = HEADER.size + 12 * sequences + 8 * documents
    if length != expected:
        raise refuse(
            index_path,
            f"its length does not fit its header ({sequences:,} sequences, {documents:,} document entries)",
            f"{expected:,} bytes",
            f"{length:,} bytes",
        )
    return DTYPES[code], sequences, documents


def _start_and_length(path: str) -> Tuple[bytes, int]:
    with open(path, "rb") as file:
        return file.read(HEADER.size), os.fstat(file.fileno()).st_size


def warm_up(path: str) -> None:
    """Read file `path` once from start to end."""
    with open(path, "rb", buffering=0) as file:
        while file.read(_WARM_UP_BYTES):
            pass


def make_dataset(path: str, impl: str = "mmap", skip_warmup: bool = True) -> TokenStore:
    """Open the dataset with prefix `path`.

    Legacy files (`{path}_ids.npy`, `{path}_idx.npz`) are taken first, as in the reference; else .bin/.idx of
    format `impl`.

    Args:
        impl: "mmap" or "lazy".

    Raises:
        UsageError: unknown `impl`, or the files are missing, broken or of another format.
    """
    from paddlenlp.data.older_formats import CompatibleIndexedDataset, IndexedDataset

    if CompatibleIndexedDataset.exists(path):
        logger.info(f"Using old dataset (.npy & .npz): {path}")
        return CompatibleIndexedDataset(path)
    if impl not in ("mmap", "lazy"):
        raise UsageError(f"data_impl is {impl!r}. Expected mmap or lazy.")
    return IndexedDataset(path) if impl == "lazy" else MMapIndexedDataset(path, skip_warmup)
