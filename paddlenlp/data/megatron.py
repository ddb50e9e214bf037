"""Datasets of Megatron-core, whose .idx ends with one byte for each sequence, its mode; and the opening of any format.

Megatron-core writes modes for multimodal data (`megatron/core/datasets/indexed_dataset.py`): header, sizes, pointers
and document index are those of `indexed_dataset.py` here, then follow the modes, int8 `[N]`; 0 is text.
"""

from __future__ import annotations

import os
from typing import Optional, Tuple

import numpy as np

from paddlenlp.data.indexed_dataset import HEADER, LAZY_MAGIC, MAGIC, VERSION, make_dataset
from paddlenlp.data.layout_checks import check_data_length, check_documents, check_sequences, refuse, require_files
from paddlenlp.data.mapped import map_file
from paddlenlp.data.older_formats import CompatibleIndexedDataset
from paddlenlp.data.token_store import DTYPES, TokenStore


def open_any(prefix: str, ignore_modes: bool = False) -> TokenStore:
    """Dataset `prefix` in whichever format it is: legacy, lazy, mmap, or Megatron-core's with modes.

    Args:
        ignore_modes: take all sequences of a dataset with modes for text.

    Raises:
        UsageError: it is missing or broken, or has sequences that are not text.
    """
    if CompatibleIndexedDataset.exists(prefix):
        return make_dataset(prefix)
    if _starts_with(prefix + ".idx", LAZY_MAGIC):
        return make_dataset(prefix, "lazy")
    modes = _position_of_modes(prefix + ".idx")
    return make_dataset(prefix) if modes is None else _open_with_modes(prefix, modes, ignore_modes)


def format_of(prefix: str) -> str:
    """The name of the format in which dataset `prefix` is: legacy, lazy, mmap or Megatron."""
    if CompatibleIndexedDataset.exists(prefix):
        return "legacy"
    if _starts_with(prefix + ".idx", LAZY_MAGIC):
        return "lazy"
    return "mmap" if _position_of_modes(prefix + ".idx") is None else "Megatron"


def paths_of(prefix: str) -> Tuple[str, str]:
    """The file of the tokens and that of the index of dataset `prefix`."""
    ends = ("_ids.npy", "_idx.npz") if format_of(prefix) == "legacy" else (".bin", ".idx")
    return prefix + ends[0], prefix + ends[1]


def _starts_with(path: str, magic: bytes) -> bool:
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        return file.read(len(magic)) == magic


def _position_of_modes(index_path: str) -> Optional[int]:
    """Where the modes start in an index that has them; None for every other file."""
    if not _starts_with(index_path, MAGIC) or os.path.getsize(index_path) < HEADER.size:
        return None
    with open(index_path, "rb") as file:
        _, version, code, sequences, documents = HEADER.unpack(file.read(HEADER.size))
    end = HEADER.size + 12 * sequences + 8 * documents
    known = version == VERSION and code in DTYPES and sequences > 0
    return end if known and os.path.getsize(index_path) == end + sequences else None


def _open_with_modes(prefix: str, position: int, ignore_modes: bool) -> TokenStore:
    index_path, data_path = prefix + ".idx", prefix + ".bin"
    require_files([index_path, data_path], prefix)
    buffer = map_file(index_path)
    _, _, code, sequences, documents = HEADER.unpack(buffer[: HEADER.size].tobytes())
    modes = np.frombuffer(buffer, "i1", sequences, position)
    if modes.any() and not ignore_modes:
        others = int(np.count_nonzero(modes))
        problem = f"{others:,} of its sequences are of another mode than text"
        remedy = "--ignore_modes takes them for text: right only if their ids are in the vocabulary."
        raise refuse(index_path, problem, "mode 0", f"mode {int(modes[np.argmax(modes != 0)])}", remedy)
    dtype = DTYPES[code]
    sizes = np.frombuffer(buffer, "<i4", sequences, HEADER.size)
    pointers = np.frombuffer(buffer, "<i8", sequences, HEADER.size + 4 * sequences)
    doc_idx = np.frombuffer(buffer, "<i8", documents, HEADER.size + 12 * sequences)
    check_data_length(data_path, index_path, check_sequences(index_path, sizes, pointers, dtype), dtype)
    check_documents(index_path, doc_idx, sequences)
    return TokenStore(prefix, map_file(data_path, dtype), sizes, pointers, doc_idx)


__all__ = ["format_of", "open_any", "paths_of"]
