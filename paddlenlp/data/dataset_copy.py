"""Datasets made of documents of others: merging, splitting and converting are all one copy of slices.

Memory does not grow with the data: documents are read and written in blocks.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np
from tqdm import tqdm

from paddlenlp.data.dataset_lengths import document_starts
from paddlenlp.data.indexed_builder import MMapIndexedDatasetBuilder, make_builder
from paddlenlp.data.mapped import release_pages
from paddlenlp.data.megatron import open_any, paths_of
from paddlenlp.data.sidecar import read_sidecar
from paddlenlp.data.splits import SPLIT_NAMES, parse_split, split_bounds
from paddlenlp.data.token_store import TokenStore
from paddlenlp.utils.disk import write_failed
from paddlenlp.utils.errors import UsageError

_DOCUMENTS = 1 << 14
_TOKENS = 1 << 20
_KEPT_FACTS = ("tokenizer_sha256", "vocab_size")


@dataclass(frozen=True)
class Slice:
    """Documents `first` up to, not including, `last` of `store`."""

    store: TokenStore
    first: int
    last: int


@dataclass(frozen=True)
class Copied:
    """What a copy wrote."""

    prefix: str
    documents: int
    sequences: int
    tokens: int


def copy_documents(
    slices: Sequence[Slice],
    prefix: str,
    dtype: Optional[np.dtype] = None,
    impl: str = "mmap",
    command: Optional[List[str]] = None,
) -> Copied:
    """Write the documents of `slices`, one slice after another, as dataset `prefix`; it appears when it is whole.

    Args:
        dtype: of the new dataset; by default that of the first slice.
        impl: format of the new index, "mmap" or "lazy".
        command: goes into the sidecar; tokenizer and vocabulary do where all sources record the same.

    Raises:
        UsageError: `prefix` is a source, an id does not fit `dtype`, or writing fails.
    """
    if any(os.path.abspath(part.store.path) == os.path.abspath(prefix) for part in slices):
        raise UsageError(f"{prefix} is what is read from; give the new dataset another prefix.")
    target = np.dtype(slices[0].store.dtype if dtype is None else dtype)
    if target.kind not in "iu":
        raise UsageError(f"{slices[0].store.path} holds {target}, not integers. Give --dtype, such as uint16 or int32.")
    size = sum(_tokens_of(part) for part in slices) * target.itemsize
    try:
        Path(prefix).parent.mkdir(parents=True, exist_ok=True)
        bar = tqdm(total=size, unit="B", unit_scale=True, desc=f"writing {prefix}", disable=None)
        with make_builder(prefix, target, impl) as builder, bar:
            for part in slices:
                _append(builder, part, target, bar)
            builder.finalize(**_common_facts(slices), command=command or [])
    except OSError as error:
        raise write_failed(prefix, error, size, "this dataset") from None
    return Copied(prefix, builder.documents, builder.sequences, builder.tokens)


def _tokens_of(part: Slice) -> int:
    starts = (
        document_starts(part.store, part.first, part.first)[0],
        document_starts(part.store, part.last, part.last)[0],
    )
    return int(starts[1] - starts[0])


def _append(builder: MMapIndexedDatasetBuilder, part: Slice, dtype: np.dtype, bar: Any) -> None:
    store, path = part.store, paths_of(part.store.path)[0]
    header = os.path.getsize(path) - store.tokens.nbytes
    for low, high, start, end in _blocks(part):
        # Not from the memory map, whose pages would stay with this process.
        ids = np.fromfile(path, store.dtype, end - start, offset=header + start * store.dtype.itemsize)
        if len(ids) != end - start:
            raise UsageError(f"{path} was cut off while it was read. Run this again when nothing writes to it.")
        if ids.dtype != dtype:
            ids = _cast(store, ids, dtype, low)
        borders = store.doc_idx[low : high + 1]
        builder.add_documents(ids, store.sizes[borders[0] : borders[-1]], np.diff(borders))
        for array in (store.sizes, store.pointers, store.doc_idx):
            release_pages(array)
        bar.update(ids.nbytes)


def _blocks(part: Slice) -> Iterator[Tuple[int, int, int, int]]:
    """`(first document, last, first token, last)` of rows of documents of _TOKENS tokens at most, or of one."""
    low = part.first
    while low < part.last:
        starts = document_starts(part.store, low, min(low + _DOCUMENTS, part.last))
        count = max(1, int(np.searchsorted(starts, starts[0] + _TOKENS, "right")) - 1)
        yield low, low + count, int(starts[0]), int(starts[count])
        low += count


def _cast(store: TokenStore, ids: np.ndarray, dtype: np.dtype, document: int) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        cast = ids.astype(dtype)
    wrong = cast != ids
    if wrong.any():
        raise UsageError(
            f"{store.path}: token id {ids[np.argmax(wrong)]} in document {document} or soon after does not fit "
            f"{dtype}. Choose a larger --dtype."
        )
    return cast


def _common_facts(slices: Sequence[Slice]) -> Dict[str, Any]:
    """Facts on tokenizer and vocabulary that all sources record alike."""
    known = [read_sidecar(part.store.path) or {} for part in slices]
    values = {name: [facts.get(name) for facts in known] for name in _KEPT_FACTS}
    return {
        name: found[0] for name, found in values.items() if found[0] is not None and found.count(found[0]) == len(found)
    }


def merge_datasets(
    prefixes: Sequence[str], prefix: str, impl: str = "mmap", command: Optional[List[str]] = None
) -> Copied:
    """Write the documents of all `prefixes`, in their order, as dataset `prefix`.

    Raises:
        UsageError: they differ in type or tokenizer, or see `copy_documents`.
    """
    stores = [open_any(name) for name in prefixes]
    _check_alike("type of token", {store.path: store.dtype.name for store in stores}, "dataset.py convert --dtype")
    hashes = {name: (read_sidecar(name) or {}).get("tokenizer_sha256") for name in prefixes}
    _check_alike("tokenizer", {name: found for name, found in hashes.items() if found}, "create_pretraining_data.py")
    return copy_documents([Slice(store, 0, store.num_documents) for store in stores], prefix, None, impl, command)


def _check_alike(what: str, values: Dict[str, str], tool: str) -> None:
    if len(set(values.values())) > 1:
        (first, expected), *others = values.items()
        name, found = next((name, value) for name, value in others if value != expected)
        raise UsageError(
            f"{name} has another {what} than {first}: expected {expected[:12]}, found {found[:12]}. Make them alike "
            f"with llm/tools/{tool}, or train on both without merging: input_dir takes several datasets."
        )


def split_by_shares(source: str, prefix: str, shares: str, command: Optional[List[str]] = None) -> List[Copied]:
    """Write the documents of `source`, in order, as `{prefix}_train`, `_valid` and `_test`; a share of 0 is left out.

    Args:
        shares: of the documents, as `split` of training: "949,50,1".

    Raises:
        UsageError: a share above 0 comes out as no document, or see `copy_documents`.
    """
    store = open_any(source)
    bounds = split_bounds(shares, store.num_documents)
    for name, share, low, high in zip(SPLIT_NAMES, parse_split(shares), bounds, bounds[1:]):
        if share > 0 and high == low:
            raise UsageError(
                f"{share:.4%} of the {store.num_documents:,} documents of {source} rounds to none for {name}. Raise "
                "its share, or set it to 0."
            )
    named = [(name, low, high) for name, low, high in zip(SPLIT_NAMES, bounds, bounds[1:]) if high > low]
    return [copy_documents([Slice(store, low, high)], f"{prefix}_{name}", command=command) for name, low, high in named]


def split_in_parts(source: str, prefix: str, parts: int, command: Optional[List[str]] = None) -> List[Copied]:
    """Write the documents of `source`, in order, as `{prefix}_00000` ... with about as many tokens each.

    Raises:
        UsageError: there are fewer documents than `parts`, or see `copy_documents`.
    """
    store = open_any(source)
    if not 1 <= parts <= store.num_documents:
        raise UsageError(
            f"--parts is {parts}; {source} has {store.num_documents:,} documents: expected 1 to that many."
        )
    bounds = [0]
    for number in range(1, parts):
        wanted = _document_near(store, len(store.tokens) * number // parts)
        bounds.append(min(max(wanted, bounds[-1] + 1), store.num_documents - parts + number))
    bounds.append(store.num_documents)
    return [
        copy_documents([Slice(store, low, high)], f"{prefix}_{number:05}", command=command)
        for number, (low, high) in enumerate(zip(bounds, bounds[1:]))
    ]


def _document_near(store: TokenStore, token: int) -> int:
    """The document whose start is the first at or after `token`."""
    sequence = int(np.searchsorted(store.pointers, token * store.dtype.itemsize, "left"))
    return int(np.searchsorted(store.doc_idx, sequence, "left"))


__all__ = ["Copied", "Slice", "copy_documents", "merge_datasets", "split_by_shares", "split_in_parts"]
