"""The order in which training reads a dataset: shuffled documents, cut into samples, shuffled samples.

Bit-exact to the reference: one `numpy.random.RandomState(seed)` shuffles the documents (the last epoch apart when it is
used only in part), then the samples. Sample i of the packed stream is its tokens `[i * L, i * L + L]`, L + 1 of them.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from dataclasses import dataclass
from typing import Any, Iterator, Optional

import numpy as np

from paddlenlp.utils.errors import UsageError

_INT32_MAX = 2**31 - 1


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


def build_doc_idx(documents: np.ndarray, plan: EpochPlan, rng: np.random.RandomState) -> np.ndarray:
    """Documents in reading order: int32 `[epochs * len(documents)]`.

    Raises:
        UsageError: more entries than int32 can count.
    """
    if len(documents) * plan.epochs > _INT32_MAX:
        raise UsageError(
            f"{plan.epochs} epochs of {len(documents)} documents make an index of more than {_INT32_MAX} entries. "
            "Lower max_steps, or use more data."
        )

    def shuffled(epochs: int) -> np.ndarray:
        order = np.tile(np.asarray(documents, np.int32), epochs)
        rng.shuffle(order)
        return order

    if not plan.separate_last_epoch:
        return shuffled(plan.epochs)
    return np.concatenate([shuffled(plan.epochs - 1), shuffled(1)])


def build_sample_idx(sizes: np.ndarray, doc_idx: np.ndarray, seq_length: int, plan: EpochPlan) -> np.ndarray:
    """Where each sample starts: int32 `[samples + 1, 2]`, rows (position in `doc_idx`, token in that document)."""
    helpers = fast_dataindex()
    if helpers is None or len(doc_idx) == 0:
        return numpy_sample_idx(sizes, doc_idx, seq_length, plan.samples)
    with quiet_stdout():
        return helpers.build_sample_idx(
            np.ascontiguousarray(sizes, np.int32), doc_idx, seq_length, plan.epochs, plan.tokens
        )


def numpy_sample_idx(sizes: np.ndarray, doc_idx: np.ndarray, seq_length: int, samples: int) -> np.ndarray:
    """`build_sample_idx` in NumPy: sample i starts at token i * L of the stream, found by binary search."""
    starts = stream_starts(sizes, doc_idx)
    positions = np.arange(samples + 1, dtype=np.int64) * seq_length
    rows = np.searchsorted(starts, positions, "right") - 1
    rows[0] = 0
    return np.stack([rows, positions - starts[rows]], axis=1).astype(np.int32)


def stream_starts(sizes: np.ndarray, doc_idx: np.ndarray) -> np.ndarray:
    """Token of the packed stream at which each entry of `doc_idx` starts, and the end: int64 `[len(doc_idx) + 1]`."""
    starts = np.zeros(len(doc_idx) + 1, np.int64)
    np.cumsum(sizes[doc_idx], out=starts[1:])
    return starts


def shuffle_dtype(samples: int) -> np.dtype:
    """Type of `shuffle_idx`: uint32, or int64 for about 4.3 thousand million samples and more."""
    return np.dtype(np.int64 if samples >= np.iinfo(np.uint32).max - 1 else np.uint32)


def build_shuffle_idx(plan: EpochPlan, rng: np.random.RandomState) -> np.ndarray:
    """Order in which samples are read: a permutation of `[0, samples)`; a separate last epoch stays last."""
    dtype = shuffle_dtype(plan.samples)
    head = np.arange(plan.head, dtype=dtype)
    rng.shuffle(head)
    if not plan.separate_last_epoch:
        return head
    tail = np.arange(plan.head, plan.samples, dtype=dtype)
    rng.shuffle(tail)
    return np.concatenate([head, tail])
