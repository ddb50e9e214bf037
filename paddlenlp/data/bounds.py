"""Documents within a sample: where they end, and what a model is told of it."""

from __future__ import annotations

from itertools import islice
from typing import Dict, Iterator, NamedTuple, Sequence

import numpy as np

from paddlenlp.utils.errors import UsageError

from .indexed_dataset import make_dataset
from .token_store import TokenStore

LOOKED_AT = 16
"""Documents of a dataset whose ends are looked at."""


class DocumentBounds(NamedTuple):
    """What begins anew behind the end of a document.

    Attributes:
        end: the token that closes every document, and belongs to it.
        positions: tokens are counted from 0 again.
        attention: tokens see none of those before.
    """

    end: int
    positions: bool = False
    attention: bool = False

    def describe(self, inputs: np.ndarray) -> Dict[str, np.ndarray]:
        """Of token ids int64 `[b, L]`: "position_ids", place of a token in its document or, where that began in an
        earlier sample, in the row; and "document_ids", number of a token's document in the row. int64 `[b, L]` each;
        only what is asked for."""
        begins = np.zeros(inputs.shape, bool)
        begins[:, 1:] = inputs[:, :-1] == self.end
        found: Dict[str, np.ndarray] = {}
        if self.positions:
            places = np.arange(inputs.shape[1], dtype=np.int64)
            found["position_ids"] = places - np.maximum.accumulate(np.where(begins, places, 0), axis=1)
        if self.attention:
            found["document_ids"] = begins.cumsum(1, dtype=np.int64)
        return found


def check_document_ends(prefixes: Sequence[str], data_impl: str, end: int) -> None:
    """Look at the first documents of each dataset.

    Raises:
        UsageError: none of a dataset's ends in the token `end`, by which bounds are found.
    """
    for prefix in prefixes:
        lasts = list(islice(_last_tokens(make_dataset(prefix, data_impl)), LOOKED_AT))
        if lasts and end not in lasts:
            raise UsageError(
                f"{prefix}: none of the first {len(lasts)} document(s) ends in the end-of-text token {end}, by which "
                f"reset_position_ids and reset_attention_mask find the bounds of documents; found {lasts[0]}. Make the "
                "dataset anew with --append_eos (llm/tools/create_pretraining_data.py), or leave these options out."
            )


def _last_tokens(store: TokenStore) -> Iterator[int]:
    """The last token of each document that has one."""
    for first, behind in zip(store.doc_idx[:-1], store.doc_idx[1:]):
        if behind > first and store.sizes[behind - 1]:
            yield int(store.get(int(behind) - 1)[-1])
