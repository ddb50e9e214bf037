"""The token ids a dataset holds: they must be indices of the model's vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Tuple

import numpy as np

from paddlenlp.data.indexed_dataset import make_dataset
from paddlenlp.data.sidecar import read_sidecar
from paddlenlp.data.token_store import TokenStore
from paddlenlp.parallel.heartbeat import beat
from paddlenlp.utils.errors import UsageError

_CHUNK = 1 << 25


@dataclass
class IdScan:
    """What the ids that it has looked at show.

    Attributes:
        limit: all ids must be below it; None: none may be negative.
        largest: id seen.
        first: index of the first one that is outside of the vocabulary, None if all are inside.
    """

    limit: Optional[int] = None
    largest: int = -1
    first: Optional[int] = None
    _seen: int = 0

    def look_at(self, ids: np.ndarray) -> None:
        """The next ids: a row of numbers."""
        # Seen as unsigned, a negative integer is larger than any positive one: one pass finds both ends.
        signed = ids.dtype.kind == "i"
        largest = int((ids.view(ids.dtype.str.replace("i", "u")) if signed else ids).max())
        negative = ids.dtype.kind == "f" or (signed and largest > np.iinfo(ids.dtype).max)
        if self.first is None and (negative or (self.limit is not None and largest >= self.limit)):
            wrong = ids < 0 if self.limit is None else (ids < 0) | (ids >= self.limit)
            self.first = self._seen + int(np.argmax(wrong)) if wrong.any() else None
        self.largest = max(self.largest, int(ids.max()) if negative else largest)
        self._seen += len(ids)


def max_token_id(prefix: str, impl: str = "mmap") -> int:
    """Largest token id of dataset `prefix`: from its sidecar, else by reading all tokens (about 1 s a gigabyte).

    Raises:
        UsageError: the dataset cannot be opened, or does not fit its sidecar.
    """
    store = make_dataset(prefix, impl)
    recorded = _recorded(store)
    return _scan(store).largest if recorded is None else recorded


def check_token_ids(store: TokenStore, vocab_size: int) -> None:
    """Raise UsageError, naming document and position, when a token id of `store` is not in `[0, vocab_size)`.

    A sidecar's largest id is trusted, and implies that none is negative.
    """
    if store.dtype.kind == "u" and np.iinfo(store.dtype).max < vocab_size:
        return
    recorded = _recorded(store)
    if recorded is not None and recorded < vocab_size:
        return
    scan = _scan(store, vocab_size)
    if scan.first is not None:
        document, place = locate(store, scan.first)
        found, where = int(store.tokens[scan.first]), f"in document {document} at token {place}"
    elif recorded is None:
        return
    else:
        found, where = recorded, "as its .meta.json says"
    raise UsageError(
        f"{store.path} holds token id {found} ({where}), but the model's vocabulary has {vocab_size} tokens. Use the "
        "tokenizer the data was made with, or make the data again with this one."
    )


def _recorded(store: TokenStore) -> Optional[int]:
    recorded = (read_sidecar(store.path) or {}).get("max_token_id")
    return None if recorded is None else int(recorded)


def _scan(store: TokenStore, limit: Optional[int] = None) -> IdScan:
    from tqdm import tqdm

    scan, title = IdScan(limit), f"token ids of {store.path}"
    with tqdm(total=store.tokens.nbytes, unit="B", unit_scale=True, desc=title, disable=None) as bar:
        for low in range(0, len(store.tokens), _CHUNK):
            part = store.tokens[low : low + _CHUNK]
            scan.look_at(part)
            bar.update(part.nbytes)
            beat.progress()
            if scan.first is not None:
                break
    return scan


def locate(store: TokenStore, token: int) -> Tuple[int, int]:
    """`(document, position within it)` of the token at index `token` of the data."""
    sequence = int(np.searchsorted(store.pointers, token * store.dtype.itemsize, "right")) - 1
    document = int(np.searchsorted(store.doc_idx, sequence, "right")) - 1
    first = int(store.pointers[int(store.doc_idx[document])]) // store.dtype.itemsize
    return document, token - first
