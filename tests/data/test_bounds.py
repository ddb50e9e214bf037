"""Bounds of documents within samples, and datasets that have none."""

from __future__ import annotations

import numpy as np
import pytest

from paddlenlp.data import DocumentBounds, MMapIndexedDatasetBuilder, check_document_ends, collate_causal_lm
from paddlenlp.utils.errors import UsageError

END = 9
TEXTS = [[1, 2, 9, 3, 4, 9, 9, 5], [9, 1, 2, 3, 4, 5, 6, 9]]


def test_what_is_told_of_the_bounds():
    samples = [{"text": np.array(text)} for text in TEXTS]
    batch = collate_causal_lm(samples, bounds=DocumentBounds(END, positions=True, attention=True))
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 2, 0], [0, 0, 1, 2, 3, 4, 5]]
    assert batch["document_ids"].tolist() == [[0, 0, 0, 1, 1, 1, 2], [0, 1, 1, 1, 1, 1, 1]]
    assert all(array.dtype == np.int64 and array.flags.c_contiguous for array in batch.values())
    assert batch["labels"].tolist() == [text[1:] for text in TEXTS]


@pytest.mark.parametrize("asked", ["positions", "attention", None])
def test_only_what_is_asked_for_is_told(asked):
    bounds = DocumentBounds(END, **({asked: True} if asked else {}))
    batch = collate_causal_lm([{"text": np.array(TEXTS[0])}], bounds=bounds)
    told = {"positions": {"position_ids"}, "attention": {"document_ids"}, None: set()}[asked]
    assert set(batch) == {"input_ids", "labels"} | told


def write(prefix, documents):
    with MMapIndexedDatasetBuilder(str(prefix), np.uint16) as builder:
        for sequences in documents:
            for sequence in sequences:
                builder.add_item(np.array(sequence))
            builder.end_document()
        builder.finalize()
    return str(prefix)


def test_documents_whose_last_sequence_has_the_end_token_are_taken(tmp_path):
    prefix = write(tmp_path / "a", [[[1, 2]], [[1, 2], [3, END]]])
    check_document_ends([prefix], "mmap", END)


def test_documents_without_the_end_token_are_refused(tmp_path):
    prefixes = [write(tmp_path / "a", [[[1, END]]]), write(tmp_path / "b", [[[END, 2], [END, 5]], [[4, 6]]])]
    with pytest.raises(UsageError, match=r"b: none of the first 2 document.* token 9.*found 5.*--append_eos"):
        check_document_ends(prefixes, "mmap", END)
