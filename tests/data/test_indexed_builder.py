"""The builder: facts it counts, ids it refuses, and that half-written files never look like a dataset."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from paddlenlp.data import MMapIndexedDataset, MMapIndexedDatasetBuilder
from paddlenlp.utils.errors import UsageError


def test_facts_are_counted_and_kept(tmp_path):
    builder = MMapIndexedDatasetBuilder(str(tmp_path / "a"), np.int32)
    builder.add_item([5, 70000])
    builder.add_item([])
    builder.end_document()
    assert (builder.documents, builder.sequences, builder.tokens) == (1, 2, 2)
    builder.finalize(tokenizer_sha256="ab", vocab_size=70001, command=["create"])
    facts = json.loads((tmp_path / "a.meta.json").read_text())
    facts.pop("bin_sample_sha256")
    assert facts == {
        "documents": 1,
        "tokens": 2,
        "max_token_id": 70000,
        "dtype": "int32",
        "bin_bytes": 8,
        "tokenizer_sha256": "ab",
        "vocab_size": 70001,
        "command": ["create"],
    }
    assert MMapIndexedDataset(str(tmp_path / "a")).sizes.tolist() == [2, 0]


@pytest.mark.parametrize("bad", [65536, -1])
def test_ids_that_do_not_fit_are_refused(tmp_path, bad):
    builder = MMapIndexedDatasetBuilder(str(tmp_path / "a"), np.uint16)
    with pytest.raises(UsageError, match=f"Token id {bad} in document 0 does not fit uint16"):
        builder.add_item([1, bad])
    builder.abort()
    assert os.listdir(tmp_path) == []


def test_nothing_shows_before_finalize(tmp_path):
    with pytest.raises(RuntimeError), MMapIndexedDatasetBuilder(str(tmp_path / "a"), np.uint16) as builder:
        builder.add_item([1])
        assert not (tmp_path / "a.bin").exists()
        raise RuntimeError
    assert os.listdir(tmp_path) == []


def test_nothing_or_an_open_document_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no tokens were added"):
        MMapIndexedDatasetBuilder(str(tmp_path / "a"), np.uint16).finalize()
    builder = MMapIndexedDatasetBuilder(str(tmp_path / "a"), np.uint16)
    builder.add_item([1])
    with pytest.raises(UsageError, match="last document was not ended"):
        builder.finalize()
    assert os.listdir(tmp_path) == []


def test_a_crash_while_replacing_leaves_no_wrong_pair(make_pair, monkeypatch):
    prefix = make_pair(sidecar=True)
    builder = MMapIndexedDatasetBuilder(prefix, np.uint16)
    builder.add_item(range(26))
    builder.end_document()
    monkeypatch.setattr(builder, "_write_index", lambda: (_ for _ in ()).throw(OSError("crash")))
    with pytest.raises(OSError, match="crash"):
        builder.finalize()
    with pytest.raises(UsageError, match=r"missing \S*text\.idx"):
        MMapIndexedDataset(prefix)
