"""From samples of L + 1 tokens to a batch of L inputs and L labels."""

from __future__ import annotations

from typing import Dict, Mapping, Sequence

import numpy as np


def collate_causal_lm(samples: Sequence[Mapping[str, np.ndarray]]) -> Dict[str, np.ndarray]:
    """Stack the "text" arrays (int64 `[L + 1]` each) of `samples` into one batch.

    Returns:
        "input_ids" and "labels", int64 `[b, L]` each. Label t is the token after input t: models do not shift again.
    """
    tokens = np.stack([sample["text"] for sample in samples])
    return {"input_ids": tokens[:, :-1].copy(), "labels": tokens[:, 1:].copy()}
