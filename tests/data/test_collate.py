"""Collation, and that this room needs no Paddle."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import paddlenlp.data
from paddlenlp.data import collate_causal_lm
from paddlenlp.utils.errors import UsageError


def test_labels_are_the_next_tokens():
    batch = collate_causal_lm([{"text": np.arange(5)}, {"text": np.arange(10, 15), "dataset_idx": 1}])
    assert batch["input_ids"].tolist() == [[0, 1, 2, 3], [10, 11, 12, 13]]
    assert batch["labels"].tolist() == [[1, 2, 3, 4], [11, 12, 13, 14]]
    assert all(array.dtype == np.int64 and array.flags.c_contiguous for array in batch.values())


def test_tokens_of_a_context_are_nothing_to_predict():
    texts = [[1, 2, 3, 9, 4, 9, 5], [9, 1, 2, 3, 4, 5, 6], [1, 9, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6, 9]]
    batch = collate_causal_lm([{"text": np.array(text)} for text in texts], context_end=9)
    assert batch["labels"].tolist() == [
        [-100, -100, 9, 4, 9, 5],
        [1, 2, 3, 4, 5, 6],
        [9, 2, 3, 4, 5, 6],
        [2, 3, 4, 5, 6, 9],  # the input has no end of a context, and is all text
    ]


@pytest.mark.parametrize("token", [-1, 8])
def test_a_token_outside_of_the_vocabulary_is_refused(token):
    good, bad = {"text": np.array([0, 7, 1])}, {"text": np.array([0, 1, token])}
    assert collate_causal_lm([good], vocab_size=8)["labels"].tolist() == [[7, 1]]
    with pytest.raises(UsageError, match=f"token id {token} at position 2 of sample 1 .* vocabulary of 8"):
        collate_causal_lm([good, bad], vocab_size=8)


def test_every_public_name_comes_without_paddle():
    names = ", ".join(paddlenlp.data.__all__)
    code = f"import sys; from paddlenlp.data import {names}; assert 'paddle' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})
