"""Collation, and that this room needs no Paddle."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

import paddlenlp.data
from paddlenlp.data import collate_causal_lm


def test_labels_are_the_next_tokens():
    batch = collate_causal_lm([{"text": np.arange(5)}, {"text": np.arange(10, 15), "dataset_idx": 1}])
    assert batch["input_ids"].tolist() == [[0, 1, 2, 3], [10, 11, 12, 13]]
    assert batch["labels"].tolist() == [[1, 2, 3, 4], [11, 12, 13, 14]]
    assert all(array.dtype == np.int64 and array.flags.c_contiguous for array in batch.values())


def test_every_public_name_comes_without_paddle():
    names = ", ".join(paddlenlp.data.__all__)
    code = f"import sys; from paddlenlp.data import {names}; assert 'paddle' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})
