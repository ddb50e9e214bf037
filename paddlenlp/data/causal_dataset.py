"""Samples for next-token prediction: L + 1 consecutive tokens of shuffled, concatenated documents."""

from __future__ import annotations

import os
from typing import Any, Dict, Iterator, List, Optional, Tuple

import numpy as np

from paddlenlp.data.index_builder import EpochPlan, build_index, plan_epochs, sample_rows, shuffle_dtype
from paddlenlp.data.index_cache import Arrays, IndexCache
from paddlenlp.data.mapped import release_pages
from paddlenlp.data.sidecar import sample_sha256
from paddlenlp.data.token_store import TokenStore
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.log import logger

_BLOCK = 1 << 20
PARTS = ("doc_idx", "sample_idx", "shuffle_idx")


class GPTDataset:
    """One split of one dataset in training order; a map from `[0, len)` to `{"text": int64 [seq_length + 1]}`.

    Documents follow each other with nothing between them but what the data holds (an end-of-text token, usually).

    Args:
        name: "train", "valid" or "test".
        data_prefix: prefix as the user wrote it: part of the cache's name.
        documents: sequences of `store` that belong to the split, a rising range.
        store: the opened dataset.
        splits_string, num_samples, seq_length, seed: what the order depends on. `len` is at least `num_samples`.
        data_cache_path: second folder for the index; it is written there when given, else to `index-cache` beside the
            data.
        spare_cache_path: folder for the index where that one can't be written to.
        is_builder: False waits for another process to write the index.
        stable_order: the order for fewer samples is the beginning of that for more; the reference's is another one as
            soon as one more pass over the documents is needed.

    Raises:
        UsageError: the documents hold no tokens, or the index cannot be written.
    """

    def __init__(
        self,
        name: str,
        data_prefix: str,
        documents: range,
        store: TokenStore,
        splits_string: str,
        num_samples: int,
        seq_length: int,
        seed: int,
        *,
        data_cache_path: Optional[str] = None,
        spare_cache_path: Optional[str] = None,
        is_builder: bool = True,
        stable_order: bool = False,
    ) -> None:
        self.name = name
        self.store = store
        self.seq_length = seq_length
        self.desc = describe(data_prefix, name, num_samples, seq_length, seed, splits_string, stable_order)
        self.plan = _plan(name, data_prefix, documents, store, num_samples, seq_length)
        index_file, data_file = _files_of(data_prefix)
        settings = {"samples": self.plan.samples, "seq_length": seq_length, "seed": seed, "split": splits_string}
        settings["stable_order"] = stable_order
        cache = IndexCache(
            self.desc,
            PARTS,
            index_folders(data_prefix, data_cache_path),
            lambda arrays: index_problem(arrays, store.sizes, documents, seq_length, self.plan),
            {**settings, **_facts(data_file), "documents": [documents.start, documents.stop]},
            {"idx_sha256": index_file},
            spare_cache_path,
        )
        arrays = cache.load_or_build(
            lambda: build_index(store.sizes, documents, seq_length, self.plan, seed, stable_order), is_builder
        )
        self.doc_idx, self.sample_idx, self.shuffle_idx = (arrays[part] for part in PARTS)
        self._itemsize = store.dtype.itemsize

    def __len__(self) -> int:
        """Samples, at least as many as were asked for."""
        return len(self.shuffle_idx)

    def __getitem__(self, index: int) -> Dict[str, np.ndarray]:
        row = int(self.shuffle_idx[index])
        first, skip, last, end = self.sample_idx[row : row + 2].ravel().tolist()
        tokens, sizes, pointers = self.store.tokens, self.store.sizes, self.store.pointers
        text = np.empty(self.seq_length + 1, np.int64)
        filled = 0
        remaining = last - first
        for document in self.doc_idx[first : last + 1].tolist():
            stop = sizes.item(document) if remaining else end + 1
            start = pointers.item(document) // self._itemsize
            text[filled : filled + stop - skip] = tokens[start + skip : start + stop]
            filled += stop - skip
            skip = 0
            remaining -= 1
        return {"text": text}

    def document_ids(self, index: int) -> List[int]:
        """Sequences of the dataset that sample `index` reads from."""
        row = int(self.shuffle_idx[index])
        (first, _), (last, _) = self.sample_idx[row : row + 2].tolist()
        return self.doc_idx[first : last + 1].tolist()


def describe(
    prefix: str,
    name: str,
    num_samples: int,
    seq_length: int,
    seed: int,
    splits_string: str,
    stable_order: bool = False,
) -> str:
    """The text whose md5 names the cache files, as the reference writes it; a stable order, which it has not, adds a
    line."""
    return (
        "GPT Dataset\n\n"
        f"Data prefix {prefix}\n"
        f"Dataset name {name}\n"
        f"Number of samples {num_samples}\n"
        f"Sequence length {seq_length}\n"
        f"Random seed {seed}\n"
        f"Split {splits_string}\n" + ("Stable order\n" if stable_order else "")
    )


def index_folders(prefix: str, data_cache_path: Optional[str]) -> List[str]:
    """Where the index of a dataset is looked for; it is written to the last."""
    return [os.path.join(os.path.dirname(prefix), "index-cache"), *([data_cache_path] if data_cache_path else [])]


def _facts(data_file: str) -> Dict[str, Any]:
    return {"bin_bytes": os.path.getsize(data_file), "bin_sample_sha256": sample_sha256(data_file)}


def _files_of(prefix: str) -> Tuple[str, str]:
    """The index and the tokens of the dataset, of whatever format."""
    oldest = prefix + "_idx.npz", prefix + "_ids.npy"
    return oldest if all(map(os.path.isfile, oldest)) else (prefix + ".idx", prefix + ".bin")


def _plan(name: str, prefix: str, documents: range, store: TokenStore, num_samples: int, seq_length: int) -> EpochPlan:
    tokens = int(store.sizes[documents.start : documents.stop].sum(dtype=np.int64))
    if tokens == 0:
        raise UsageError(
            f"Split {name!r} of {prefix} holds no tokens: its {len(documents)} documents "
            f"[{documents.start}, {documents.stop}) are all empty. Add documents that have text."
        )
    plan = plan_epochs(tokens, seq_length, num_samples)
    logger.info(
        f"{name} split of {prefix}: {plan.samples:,} samples from {plan.epochs:,} epochs of {tokens:,} tokens "
        f"({num_samples:,} samples asked for)"
    )
    if tokens <= seq_length:
        logger.warning(
            f"Split {name!r} of {prefix} has {tokens} tokens, fewer than the {seq_length + 1} of one sample: every "
            "sample repeats it. Add data, or lower max_seq_length."
        )
    return plan


def index_problem(
    arrays: Arrays, sizes: np.ndarray, documents: range, seq_length: int, plan: EpochPlan
) -> Optional[str]:
    """Why index arrays do not fit the data, or None when they do.

    They fit when doc_idx holds every document once an epoch, every row of sample_idx points at token i * L of that
    stream, and shuffle_idx is a permutation: all values are checked, so truncated, zeroed or outdated files are found.
    """
    doc_idx, sample_idx, shuffle_idx = (arrays[part] for part in PARTS)
    expected = {
        "doc_idx": (np.dtype(np.int32), (len(documents) * plan.epochs,)),
        "sample_idx": (np.dtype(np.int32), (plan.samples + 1, 2)),
        "shuffle_idx": (shuffle_dtype(plan.samples), (plan.samples,)),
    }
    for part, (dtype, shape) in expected.items():
        found = arrays[part]
        if found.dtype != dtype or found.shape != shape:
            return f"{part} is {found.dtype} {list(found.shape)}, expected {dtype} {list(shape)}"
    if not _each_occurs(doc_idx, documents, plan.epochs):
        return f"doc_idx does not hold every document {plan.epochs} times"
    if not _each_occurs(shuffle_idx, range(plan.samples), 1):
        return "shuffle_idx is not a permutation of the samples"
    for first, rows in sample_rows(sizes, doc_idx, seq_length, plan.samples):
        wrong = (sample_idx[first : first + len(rows)] != rows).any(axis=1)
        if wrong.any():
            row = first + int(np.argmax(wrong))
            return f"sample_idx does not fit the document sizes (row {row}): the data has changed"
        release_pages(sample_idx[first : first + len(rows)])
    return None


def _each_occurs(values: np.ndarray, domain: range, times: int) -> bool:
    """Whether `values` holds each number of `domain` exactly `times` times and nothing else.

    It holds `times * len(domain)` values.
    """
    if len(domain) == 0:
        return True
    if times == 1:
        seen = np.zeros(len(domain), bool)
        for block in _blocks(values, _BLOCK):
            if block.min() < domain.start or block.max() >= domain.stop:
                return False
            seen[block.astype(np.int64) - domain.start] = True
        return bool(seen.all())
    counts = np.zeros(len(domain), np.int64)
    for block in _blocks(values, max(_BLOCK, len(domain))):
        if block.min() < domain.start or block.max() >= domain.stop:
            return False
        counts += np.bincount(block - domain.start, minlength=len(domain))
    return bool((counts == times).all())


def _blocks(values: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Each is given back when the next one is asked for."""
    for start in range(0, len(values), size):
        block = values[start : start + size]
        yield block
        release_pages(block)
