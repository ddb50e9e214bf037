"""The token ids a dataset holds: they must be indices of the model's vocabulary."""

from __future__ import annotations

from typing import Optional, Tuple

import numpy as np

from paddlenlp.data.indexed_dataset import make_dataset
from paddlenlp.data.sidecar import read_sidecar
from paddlenlp.data.token_store import TokenStore
from paddlenlp.parallel.heartbeat import beat
from paddlenlp.utils.errors import UsageError

_CHUNK = 1 << 25


def max_token_id(prefix: str, impl: str = "mmap") -> int:
    """Largest token id of dataset `prefix`: from its sidecar, else by reading all tokens (about 1 s a gigabyte).

    Raises:
        UsageError: the dataset cannot be opened, or does not fit its sidecar.
    """
    return _id_range(make_dataset(prefix, impl))[1]


def check_token_ids(store: TokenStore, vocab_size: int) -> None:
    """Raise UsageError, naming document and position, when a token id of `store` is not in `[0, vocab_size)`."""
    if store.dtype.kind == "u" and np.iinfo(store.dtype).max < vocab_size:
        return
    smallest, largest = _id_range(store)
    if smallest >= 0 and largest < vocab_size:
        return
    place = _first_outside(store, vocab_size)
    where = f"first in document {place[0]} at token {place[1]}" if place else "as its .meta.json says"
    raise UsageError(
        f"{store.path} holds token id {largest if largest >= vocab_size else smallest} ({where}), but the model's "
        f"vocabulary has {vocab_size} tokens. Use the tokenizer the data was made with, or make the data again with "
        "this one."
    )


def _id_range(store: TokenStore) -> Tuple[int, int]:
    """Smallest and largest token id; a sidecar's largest is trusted, and implies none is negative."""
    recorded = (read_sidecar(store.path) or {}).get("max_token_id")
    return (0, int(recorded)) if recorded is not None else _scan(store)


def _scan(store: TokenStore) -> Tuple[int, int]:
    from tqdm import tqdm

    smallest, largest = 0, 0
    title = f"token ids of {store.path}"
    with tqdm(total=store.tokens.nbytes, unit="B", unit_scale=True, desc=title, disable=None) as bar:
        for low in range(0, len(store.tokens), _CHUNK):
            part = store.tokens[low : low + _CHUNK]
            largest = max(largest, int(part.max()))
            if part.dtype.kind != "u":
                smallest = min(smallest, int(part.min()))
            bar.update(part.nbytes)
            beat.progress()
    return smallest, largest


def _first_outside(store: TokenStore, vocab_size: int) -> Optional[Tuple[int, int]]:
    """`(document, token within it)` of the first id outside `[0, vocab_size)`."""
    for low in range(0, len(store.tokens), _CHUNK):
        part = store.tokens[low : low + _CHUNK]
        outside = (part < 0) | (part >= vocab_size)
        if outside.any():
            return locate(store, low + int(np.argmax(outside)))
    return None


def locate(store: TokenStore, token: int) -> Tuple[int, int]:
    """`(document, position within it)` of the token at index `token` of the data."""
    sequence = int(np.searchsorted(store.pointers, token * store.dtype.itemsize, "right")) - 1
    document = int(np.searchsorted(store.doc_idx, sequence, "right")) - 1
    first = int(store.pointers[int(store.doc_idx[document])]) // store.dtype.itemsize
    return document, token - first
