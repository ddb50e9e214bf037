"""How long the documents of a dataset are: counted in flat memory, and drawn for a terminal."""

from __future__ import annotations

from typing import List, Sequence, Tuple

import numpy as np

from paddlenlp.data.mapped import release_pages
from paddlenlp.data.token_store import TokenStore

_CHUNK = 1 << 18
_COUNTED = 1 << 20
"""Lengths from here on are counted together."""

_EIGHTHS = " ▏▎▍▌▋▊▉█"


def document_starts(store: TokenStore, low: int, high: int) -> np.ndarray:
    """Index of the first token of documents `low` to `high` of `store`, and where the one before `high` ends: int64
    `[high - low + 1]`."""
    sequences = store.doc_idx[low : high + 1]
    starts = store.pointers[np.minimum(sequences, len(store) - 1)] // store.dtype.itemsize
    return np.where(sequences == len(store), len(store.tokens), starts)


class DocumentLengths:
    """Tokens of each document of `store`.

    Attributes:
        documents, tokens, shortest, longest: of all of them.
    """

    def __init__(self, store: TokenStore) -> None:
        self._counts = np.zeros(_COUNTED + 1, np.int64)
        self.documents, self.tokens = store.num_documents, len(store.tokens)
        self.shortest, self.longest = self.tokens, 0
        for low in range(0, self.documents, _CHUNK):
            lengths = np.diff(document_starts(store, low, min(low + _CHUNK, self.documents)))
            self.shortest, self.longest = min(self.shortest, int(lengths.min())), max(self.longest, int(lengths.max()))
            np.add.at(self._counts, np.minimum(lengths, _COUNTED), 1)
            release_pages(store.doc_idx)
            release_pages(store.pointers)

    def quantile(self, share: float) -> int:
        """The length that `share` of the documents do not exceed (nearest rank); exact below 2^20 tokens."""
        rank = max(1, int(np.ceil(share * self.documents)))
        found = int(np.searchsorted(np.cumsum(self._counts), rank))
        return found if found < _COUNTED else self.longest

    def classes(self) -> List[Tuple[int, int, int]]:
        """`(first length, last length, documents)` for 0 and each power of two, from the shortest to the longest."""
        bounds = [0, *(1 << power for power in range(_COUNTED.bit_length()))]
        found = []
        for low, high in zip(bounds, [*bounds[1:], self.longest + 1]):
            if low <= self.longest and high > self.shortest:
                count = int(self._counts[low : _COUNTED + 1 if low == _COUNTED else high].sum())
                found.append((low, high - 1, count))
        return found

    def picture(self, width: int = 50) -> str:
        """The classes as bars, the fullest `width` characters long."""
        classes = self.classes()
        labels = [f"{low:,} to {high:,}" if high > low else f"{low:,}" for low, high, _ in classes]
        counts = [count for _, _, count in classes]
        return draw_bars(labels, counts, width)


def draw_bars(labels: Sequence[str], counts: Sequence[int], width: int) -> str:
    """One line for each count: label, a bar in proportion to the largest one, the count and its share of all."""
    most, total = max(counts), sum(counts)
    reach, digits = max(map(len, labels)), len(f"{most:,}")
    lines = []
    for label, count in zip(labels, counts):
        whole, rest = divmod(round(count * width * 8 / most), 8)
        bar = "█" * whole + _EIGHTHS[rest].strip()
        lines.append(f"{label:>{reach}}  {bar:<{width}}  {count:>{digits},}  {count / total:6.1%}")
    return "\n".join(lines)


__all__ = ["DocumentLengths", "document_starts", "draw_bars"]
