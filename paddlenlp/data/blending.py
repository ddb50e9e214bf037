"""Which dataset each sample of a blend comes from: always the one that lags most behind its weight.

Sample i is of the dataset with the largest `weights[d] * max(i, 1) - taken[d]`, the first of equals. Each choice
depends on all before it; without compiled code, stretches of the sequence are nevertheless computed side by side. What
was taken before a stretch is guessed, and since the rule drives different beginnings to the same sequence, most guesses
are right after some steps. Those that are not equal to the end of the stretch before are computed again from there,
until all fit: the outcome is that of the plain loop, bit for bit.
"""

from __future__ import annotations

import itertools
import time
from array import array
from typing import List, Optional, Sequence, Tuple

import numpy as np

from paddlenlp.data.index_builder import fast_dataindex, quiet_stdout
from paddlenlp.utils.log import logger

_HEAD = 1 << 14
"""Samples that are chosen one by one, to learn how far a dataset lags when its turn comes."""
_STEPS = 1024
"""Samples of a stretch."""
_STRETCHES = 4096
_ENTRIES = 1 << 22
"""Stretches side by side: at most so many, and so many counts of datasets in all."""
_FEW = 200
"""Counts of datasets below which the plain loop is faster."""
_REPEATS = 32
"""Times that guesses are mended side by side; with many datasets that are hardly ever chosen, few are right."""


def blending_indices(weights: np.ndarray, size: int) -> Tuple[np.ndarray, np.ndarray]:
    """Dataset (int16 `[size]`) and sample within it (int64 `[size]`) of each blended sample.

    Args:
        weights: float64, summing to 1.
    """
    index, sample_index = np.zeros(size, np.int16), np.zeros(size, np.int64)
    helpers = fast_dataindex()
    if helpers is not None:
        try:
            with quiet_stdout():
                helpers.build_blending_indices(index, sample_index, weights, len(weights), size, False)
            return index, sample_index
        except TypeError:
            logger.info("This version of fast_dataindex cannot blend with int16 indices; NumPy does it instead.")
    began = time.monotonic()
    index, sample_index = numpy_blending_indices(weights, size)
    logger.info(f"Blended {size:,} samples without fast_dataindex in {time.monotonic() - began:.1f} s")
    return index, sample_index


def plain_blending_indices(
    weights: Sequence[float], size: int, first: int = 0, taken: Optional[List[int]] = None
) -> Tuple[np.ndarray, np.ndarray]:
    """`blending_indices` one by one: about 1 s a million samples of ten datasets.

    Args:
        first: number of the first sample.
        taken: of each dataset before it; raised.
    """
    index, sample_index = array("h"), array("q")
    taken = [0] * len(weights) if taken is None else taken
    for i in range(first, first + size):
        scale = i or 1
        lags = [weight * scale - count for weight, count in zip(weights, taken)]
        chosen = lags.index(max(lags))
        index.append(chosen)
        sample_index.append(taken[chosen])
        taken[chosen] += 1
    return np.array(index, np.int16), np.array(sample_index, np.int64)


def numpy_blending_indices(weights: np.ndarray, size: int) -> Tuple[np.ndarray, np.ndarray]:
    """`blending_indices` without compiled code."""
    index, sample_index = np.zeros(size, np.int16), np.zeros(size, np.int64)
    done = min(size, _HEAD, (1 << 20) // len(weights))
    index[:done], sample_index[:done] = plain_blending_indices(weights.tolist(), done)
    taken = np.bincount(index[:done], minlength=len(weights)).astype(np.float64)
    turns = _turns(weights, index[:done], sample_index[:done])
    most = max(1, min(_STRETCHES, _ENTRIES // len(weights)))
    while done < size:
        stretches = _Stretches(weights, min(most, -(-(size - done) // _STEPS)), done)
        taken = stretches.run(taken, turns)
        count = min(size - done, stretches.chosen.size)
        index[done : done + count] = stretches.chosen.T.ravel()[:count]
        sample_index[done : done + count] = stretches.samples.T.ravel()[:count]
        done += count
    return index, sample_index


def _turns(weights: np.ndarray, index: np.ndarray, sample_index: np.ndarray) -> np.ndarray:
    """By how much each dataset lagged, on average, when it was chosen, `[datasets]`.

    Where that was seldom, the least of all lags: one that grows slowly is the largest as soon as the others are small.
    """
    lags = weights[index] * np.maximum(np.arange(len(index)), 1) - sample_index
    counts = np.bincount(index, minlength=len(weights))
    sums = np.bincount(index, lags, minlength=len(weights))
    return np.where(counts > 2, sums / np.maximum(counts, 1), lags.min(initial=1.0))


class _Stretches:
    """`count` stretches of _STEPS samples that follow sample `first`.

    Attributes:
        chosen, samples: `[steps, stretches]`, dataset and sample within it.
    """

    def __init__(self, weights: np.ndarray, count: int, first: int) -> None:
        self.weights = weights
        self.first = first + _STEPS * np.arange(count, dtype=np.float64)
        self.chosen = np.empty((_STEPS, count), np.int16)
        self.samples = np.empty((_STEPS, count), np.int64)

    def run(self, taken: np.ndarray, turns: np.ndarray) -> np.ndarray:
        """Choose all; what has been taken of each dataset at the end.

        Args:
            taken: at the beginning.
            turns: see `_turns`.
        """
        before = self._guess(turns)
        before[0] = taken
        after = self._choose(before, np.arange(len(before)))
        for repeats in itertools.count():
            wrong = 1 + np.flatnonzero((before[1:] != after[:-1]).any(axis=1))
            if not len(wrong):
                break
            if repeats > _REPEATS or len(wrong) * len(self.weights) < _FEW:
                self._go_on(before, after, int(wrong[0]))
                continue
            before[wrong] = after[wrong - 1]
            after[wrong] = self._choose(before[wrong], wrong)
        return after[-1]

    def _go_on(self, before: np.ndarray, after: np.ndarray, stretch: int) -> None:
        """Choose again one by one, from `stretch` on until what comes next fits."""
        weights = self.weights.tolist()
        while stretch < len(before) and (before[stretch] != after[stretch - 1]).any():
            before[stretch] = after[stretch - 1]
            taken = [int(count) for count in before[stretch]]
            found = plain_blending_indices(weights, _STEPS, int(self.first[stretch]), taken)
            self.chosen[:, stretch], self.samples[:, stretch] = found
            after[stretch] = taken
            stretch += 1

    def _guess(self, turns: np.ndarray) -> np.ndarray:
        """What will probably have been taken before each stretch, `[stretches, datasets]`."""
        early = np.maximum(self.first - _STEPS // 2, 0.0)
        shares = early[:, None] * self.weights
        taken = np.maximum(np.floor(shares - turns) + 1, 0.0)
        _complete(taken, early, shares)
        for step in range(_STEPS // 2):
            _take_next(self.weights, early + step, taken)
        return taken

    def _choose(self, taken: np.ndarray, which: np.ndarray) -> np.ndarray:
        """Choose the samples of the stretches `which`; what has been taken at their ends.

        Args:
            taken: before them.
        """
        taken, first = taken.copy(), self.first[which]
        for step in range(_STEPS):
            self.chosen[step, which], self.samples[step, which] = _take_next(self.weights, first + step, taken)
        return taken


def _take_next(weights: np.ndarray, number: np.ndarray, taken: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Dataset and sample within it for the sample of each stretch whose number is `number`; `taken` is raised."""
    lags = weights * np.maximum(number, 1.0)[:, None]
    lags -= taken
    chosen = lags.argmax(axis=1)
    places = chosen + np.arange(0, taken.size, len(weights))
    counts = taken.reshape(-1)
    samples = counts[places]
    counts[places] = samples + 1
    return chosen, samples


def _complete(taken: np.ndarray, number: np.ndarray, shares: np.ndarray) -> None:
    """Change `taken` where it lags most, or least, until as many samples are taken as `number` says."""
    rows = np.arange(len(taken))
    while True:
        missing = number - taken.sum(axis=1)
        if not missing.any():
            return
        lags = shares - taken
        lags[taken == 0] += np.where(missing < 0, np.inf, 0.0).repeat((taken == 0).sum(axis=1))
        place = np.where(missing > 0, lags.argmax(axis=1), lags.argmin(axis=1))
        taken[rows, place] += np.sign(missing)


__all__ = ["blending_indices", "numpy_blending_indices", "plain_blending_indices"]
