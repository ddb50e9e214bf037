"""The builder: facts it counts, ids it refuses, and that half-written files never look like a dataset."""

from __future__ import annotations

import hashlib
import json
import os

import numpy as np
import pytest

from paddlenlp.data import MMapIndexedDataset, MMapIndexedDatasetBuilder, indexed_builder, make_dataset
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
    for suffix in ("bin", "idx"):
        assert facts.pop(f"{suffix}_sha256") == hashlib.sha256((tmp_path / f"a.{suffix}").read_bytes()).hexdigest()
    assert facts == {
        "documents": 1,
        "sequences": 2,
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
    monkeypatch.setattr(indexed_builder, "write_sidecar", lambda *_: (_ for _ in ()).throw(OSError("crash")))
    with pytest.raises(OSError, match="crash"):
        builder.finalize()
    with pytest.raises(UsageError, match=r"missing \S*text\.idx"):
        MMapIndexedDataset(prefix)


@pytest.mark.parametrize("dtype", ["uint16", "int32"])
@pytest.mark.parametrize("impl", ["mmap", "lazy"])
def test_many_documents_at_once_are_those_one_by_one(tmp_path, impl, dtype, monkeypatch):
    monkeypatch.setattr("paddlenlp.data.partial_files._BLOCK", 64)
    monkeypatch.setattr("paddlenlp.data.partial_files._HELD", 5)
    rng = np.random.RandomState(0)
    sequences = rng.randint(1, 4, 50)
    sizes = rng.randint(0, 9, sequences.sum()).astype(np.int32)
    ids = rng.randint(0, 60000, sizes.sum()).astype(dtype)
    one, many = (MMapIndexedDatasetBuilder(str(tmp_path / name), dtype, impl) for name in ("one", "many"))
    pieces = iter(np.split(ids, np.cumsum(sizes)[:-1]))
    for count in sequences:
        for _ in range(count):
            one.add_item(next(pieces))
        one.end_document()
    half, borders = 20, np.cumsum(sequences)
    cut = sizes[: borders[half - 1]].sum()
    many.add_documents(ids[:cut], sizes[: borders[half - 1]], sequences[:half])
    many.add_documents(ids[cut:], sizes[borders[half - 1] :], sequences[half:])
    for builder in (one, many):
        builder.finalize()
    for suffix in (".bin", ".idx"):
        assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"many{suffix}").read_bytes()
    data = make_dataset(str(tmp_path / "many"), impl)
    assert data.sizes.tolist() == sizes.tolist() and data.doc_idx.tolist() == [0, *borders.tolist()]
    assert np.array_equal(np.asarray(data.tokens), ids) and data.dtype == np.dtype(dtype)
    assert sorted(os.listdir(tmp_path)) == sorted(
        f"{a}.{b}" for a in ("one", "many") for b in ("bin", "idx", "meta.json")
    )
