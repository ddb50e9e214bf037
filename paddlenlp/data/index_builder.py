"""The order in which training reads a dataset: shuffled documents, cut into samples, shuffled samples.

Bit-exact to the reference: one `numpy.random.RandomState(seed)` shuffles the documents (the last epoch apart when it is
used only in part), then the samples. Sample i of the packed stream is its tokens `[i * L, i * L + L]`, L + 1 of them.

The stable order, which the reference does not have, shuffles each epoch by itself, so that the order of few epochs is
the beginning of that of more.

Memory: doc_idx, shuffle_idx and a few blocks of `_BLOCK` entries. The largest array, sample_idx, is made block by
block while it is written.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Optional, Tuple, Union

import numpy as np

from paddlenlp.data.streamed_array import StreamedArray
from paddlenlp.parallel.heartbeat import beat
from paddlenlp.utils.errors import UsageError

_INT32_MAX = 2**31 - 1
_WIDE = 1 << 26
"""Entries that are shuffled as int64: what that takes is 512 MiB at most."""
_BLOCK = 1 << 15
"""Documents taken at a time, fewer if they are long: what is worked on stays in the processor's cache."""


def fast_dataindex() -> Optional[Any]:
    """The compiled helpers of the optional package fast_dataindex, or None where it is not installed."""
    try:
        return importlib.import_module("fast_dataindex.helpers")
    except ImportError:
        return None


@contextlib.contextmanager
def quiet_stdout() -> Iterator[None]:
    """Send what compiled code writes to file descriptor 1 nowhere."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


@dataclass(frozen=True)
class EpochPlan:
    """How often the documents are read to get the samples asked for.

    Attributes:
        tokens: tokens of one epoch.
        epochs: epochs begun.
        samples: samples that many epochs give (>= those asked for).
        head: samples shuffled together first; the rest, from the separate last epoch, follow. Equal to `samples`
            when no epoch is separate.
    """

    tokens: int
    epochs: int
    samples: int
    head: int

    @property
    def separate_last_epoch(self) -> bool:
        """Whether the last epoch is shuffled by itself (less than 80 % of it is needed)."""
        return self.head != self.samples


def plan_epochs(tokens: int, seq_length: int, num_samples: int) -> EpochPlan:
    """The plan for at least `num_samples` samples of `seq_length` tokens from epochs of `tokens` (> 0) tokens."""
    epochs = max(1, -(-(num_samples * seq_length + 1) // tokens))
    samples = (epochs * tokens - 1) // seq_length
    if epochs == 1:
        return EpochPlan(tokens, 1, samples, samples)
    before = ((epochs - 1) * tokens - 1) // seq_length
    separate = num_samples - before < int(0.80 * ((tokens - 1) // seq_length))
    return EpochPlan(tokens, epochs, samples, before if separate else samples)


def build_index(
    sizes: np.ndarray, documents: range, seq_length: int, plan: EpochPlan, seed: int, stable_order: bool = False
) -> Dict[str, Union[np.ndarray, StreamedArray]]:
    """The arrays "doc_idx", "sample_idx" (streamed) and "shuffle_idx" that say what each sample is.

    Args:
        sizes: tokens of every document of the dataset, int32.
        documents: those that are read.
        stable_order: each epoch is shuffled by itself, from the seed and its number; see `stable_order_of`.

    Raises:
        UsageError: more documents times epochs than int32 can count.
    """
    if stable_order:
        doc_idx, shuffle_idx = stable_order_of(documents, seq_length, plan, seed)
    else:
        rng = np.random.RandomState(seed)
        doc_idx = build_doc_idx(documents, plan, rng)
        beat.progress()
        shuffle_idx = build_shuffle_idx(plan, rng)
    sample_idx = _streamed_rows(sizes, doc_idx, seq_length, plan.samples)
    return {"doc_idx": doc_idx, "sample_idx": sample_idx, "shuffle_idx": shuffle_idx}


def build_doc_idx(documents: range, plan: EpochPlan, rng: np.random.RandomState) -> np.ndarray:
    """Documents in reading order: int32 `[epochs * len(documents)]`.

    Raises:
        UsageError: more entries than int32 can count.
    """
    order = _repeated(documents, plan.epochs)
    first = len(documents) * (plan.epochs - plan.separate_last_epoch)
    _shuffle(rng, order[:first])
    if plan.separate_last_epoch:
        _shuffle(rng, order[first:])
    return order


def _shuffle(rng: np.random.RandomState, values: np.ndarray) -> None:
    """`rng.shuffle(values)`, which NumPy does a third faster for entries of 8 bytes: the exchanges are the same."""
    if len(values) > _WIDE:
        rng.shuffle(values)
        return
    wide = values.astype(np.int64)
    rng.shuffle(wide)
    values[:] = wide


def _repeated(documents: range, epochs: int) -> np.ndarray:
    """The documents in file order, once an epoch: int32."""
    if len(documents) * epochs > _INT32_MAX:
        raise UsageError(
            f"{epochs} epochs of {len(documents)} documents make an index of more than {_INT32_MAX} entries. "
            "Lower max_steps, or use more data."
        )
    order = np.empty((epochs, len(documents)), np.int32)
    order[:] = np.arange(documents.start, documents.stop, dtype=np.int32)
    return order.reshape(-1)


def build_sample_idx(sizes: np.ndarray, doc_idx: np.ndarray, seq_length: int, samples: int) -> np.ndarray:
    """Where each sample starts: int32 `[samples + 1, 2]`, rows (position in `doc_idx`, token in that document)."""
    return np.asarray(_streamed_rows(sizes, doc_idx, seq_length, samples))


def _streamed_rows(sizes: np.ndarray, doc_idx: np.ndarray, seq_length: int, samples: int) -> StreamedArray:
    """`build_sample_idx` for those that write it to a file."""
    return StreamedArray((samples + 1, 2), np.dtype(np.int32), lambda: sample_rows(sizes, doc_idx, seq_length, samples))


def sample_rows(
    sizes: np.ndarray, doc_idx: np.ndarray, seq_length: int, samples: int
) -> Iterator[Tuple[int, np.ndarray]]:
    """The rows of `build_sample_idx` block by block: (number of the first, int32 `[n, 2]`).

    Sample i starts in the document that holds token i * L of the stream, which is as many documents from the start of
    a block as end at or before that token. Each document is looked at once, whatever the number of samples.

    Args:
        doc_idx: documents that exist.
    """
    done = token = 0
    documents = max(1, min(_BLOCK, 4 * _BLOCK * len(doc_idx) // max(1, samples)))
    table, wide = _looked_up(sizes, documents, seq_length)
    for start, lengths in _ahead(table, doc_idx, documents, wide):
        ends = lengths.cumsum(dtype=wide)
        stop = min(-(-(token + int(ends[-1])) // seq_length), samples + 1)
        if stop > done:
            skip = done * seq_length - token
            rows = _documents_at(ends + (seq_length - 1 - skip), seq_length, stop - done)
            block = np.empty((stop - done, 2), np.int32)
            block[:, 0] = rows + start
            block[:, 1] = np.arange(skip, skip + (stop - done) * seq_length, seq_length) - ends[rows] + lengths[rows]
            if not done:
                block[0] = 0
            yield done, block
            beat.progress()
            done = stop
        token += int(ends[-1])


def _ahead(table: np.ndarray, doc_idx: np.ndarray, documents: int, wide: np.dtype) -> Iterator[Tuple[int, np.ndarray]]:
    """(Place of the first, their lengths) of so many documents at a time. A thread looks up one block while the caller
    works on another: that is what takes the time, waiting for memory."""

    def look_up(start: int) -> np.ndarray:
        # It is known that they exist, so none is checked ("wrap"), which takes a third of the time.
        return table.take(doc_idx[start : start + documents], mode="wrap").astype(wide)

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(look_up, 0)
        for start in range(0, len(doc_idx), documents):
            lengths = coming.result()
            coming = pool.submit(look_up, start + documents)
            yield start, lengths


def _documents_at(ends: np.ndarray, seq_length: int, count: int) -> np.ndarray:
    """How many documents end before each of tokens 0, L ... of a block: int64 `[count]`.

    Args:
        ends: L - 1 tokens behind the end of each document; changed.
    """
    begun = np.floor_divide(ends, ends.dtype.type(seq_length), out=ends)  # samples that begin before each end
    if int(begun[-1]) < len(begun) // 2:
        steps = np.flatnonzero(begun[1:] != begun[:-1]) + 1
        steps = np.concatenate(([0], steps)) if begun[0] else steps
        if len(steps) == begun[-1]:  # no document is longer than a sample
            return steps[:count]
    return np.bincount(begun, minlength=count)[:count].cumsum()


def _looked_up(sizes: np.ndarray, documents: int, seq_length: int) -> Tuple[np.ndarray, np.dtype]:
    """The sizes in the form that is fastest to look up and to sum over so many documents, and the type of the sums.

    Documents come in random order: half as many bytes are found in the processor's cache more often.
    """
    longest = int(sizes.max(initial=0))
    table = sizes.astype(np.uint16) if longest <= np.iinfo(np.uint16).max else sizes
    sums_fit = documents * longest + seq_length <= _INT32_MAX
    return table, np.dtype(np.int32 if sums_fit else np.int64)


def shuffle_dtype(samples: int) -> np.dtype:
    """Type of `shuffle_idx`: uint32, or int64 for about 4.3 thousand million samples and more."""
    return np.dtype(np.int64 if samples >= np.iinfo(np.uint32).max - 1 else np.uint32)


def build_shuffle_idx(plan: EpochPlan, rng: np.random.RandomState) -> np.ndarray:
    """Order in which samples are read: a permutation of `[0, samples)`; a separate last epoch stays last."""
    order = np.arange(plan.samples, dtype=shuffle_dtype(plan.samples))
    _shuffle(rng, order[: plan.head])
    if plan.separate_last_epoch:
        _shuffle(rng, order[plan.head :])
    return order


def stable_order_of(documents: range, seq_length: int, plan: EpochPlan, seed: int) -> Tuple[np.ndarray, np.ndarray]:
    """`(doc_idx, shuffle_idx)` of which those for fewer epochs are the beginning.

    `RandomState([seed, epoch])` shuffles the documents of an epoch, then the samples that are complete with it: those
    whose last token lies in it.

    Raises:
        UsageError: more documents times epochs than int32 can count.
    """
    doc_idx = _repeated(documents, plan.epochs)
    shuffle_idx = np.arange(plan.samples, dtype=shuffle_dtype(plan.samples))
    bounds: List[int] = [max(0, (epoch * plan.tokens - 1) // seq_length) for epoch in range(plan.epochs + 1)]
    for epoch in range(plan.epochs):
        rng = np.random.RandomState([seed, epoch])
        _shuffle(rng, doc_idx[epoch * len(documents) : (epoch + 1) * len(documents)])
        _shuffle(rng, shuffle_idx[bounds[epoch] : bounds[epoch + 1]])
        beat.progress()
    return doc_idx, shuffle_idx
