"""From samples of L + 1 tokens to a batch of L inputs and L labels."""

from __future__ import annotations

from typing import Dict, Mapping, Optional, Sequence

import numpy as np

from paddlenlp.utils.errors import UsageError

from .bounds import DocumentBounds

IGNORED = -100
"""The label of a token that counts in no loss."""


def collate_causal_lm(
    samples: Sequence[Mapping[str, np.ndarray]],
    context_end: Optional[int] = None,
    vocab_size: Optional[int] = None,
    bounds: Optional[DocumentBounds] = None,
) -> Dict[str, np.ndarray]:
    """Stack the "text" arrays (int64 `[L + 1]` each) of `samples` into one batch.

    Args:
        samples: items of a dataset.
        context_end: the token before which the first such token of an input makes all a context, whose tokens the model
            lets see each other: they have nothing to predict there. None if the model has no contexts.
        vocab_size: token ids must be below it; None does not check. A table of tokens that is cut over several
            processes could not tell an id beyond it from one of another process.
        bounds: what begins anew at the ends of documents; nothing if None.

    Returns:
        "input_ids" and "labels", int64 `[b, L]` each. Label t is the token after input t: models do not shift again. It
        is -100 where that is a token of a context. Beside them what `DocumentBounds.describe` gives.

    Raises:
        UsageError: a token id is not below `vocab_size`.
    """
    tokens = np.stack([sample["text"] for sample in samples])
    if vocab_size is not None and not 0 <= tokens.min() <= tokens.max() < vocab_size:
        _refuse(tokens, vocab_size)
    inputs, labels = tokens[:, :-1].copy(), tokens[:, 1:].copy()
    if context_end is not None:
        ends = np.where(inputs == context_end, np.arange(inputs.shape[1]), inputs.shape[1]).min(1)
        lengths = np.where(ends < inputs.shape[1], ends, 0)
        labels[np.arange(1, labels.shape[1] + 1) < lengths[:, None]] = IGNORED
    return {"input_ids": inputs, "labels": labels, **(bounds.describe(inputs) if bounds else {})}


def _refuse(tokens: np.ndarray, vocab_size: int) -> None:
    row, place = np.argwhere((tokens < 0) | (tokens >= vocab_size))[0]
    raise UsageError(
        f"token id {tokens[row, place]} at position {place} of sample {row} of a batch is outside of the model's "
        f"vocabulary of {vocab_size}. The dataset was made with another tokenizer: make it anew with this one "
        "(llm/tools/create_pretraining_data.py)."
    )
