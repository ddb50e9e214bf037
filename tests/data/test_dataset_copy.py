"""Merging, splitting and converting: every document, once, in order; nothing half-written."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import numpy as np
import pytest

from paddlenlp.data import MMapIndexedDatasetBuilder, dataset_copy, make_dataset, read_sidecar
from paddlenlp.data.dataset_copy import Slice, copy_documents, merge_datasets, split_by_shares, split_in_parts
from paddlenlp.data.megatron import open_any
from paddlenlp.utils.errors import UsageError
from tests.data.other_formats import write_with_modes
from tests.data.test_older_formats import write_lazy, write_legacy


@pytest.fixture
def source(tmp_path):
    """60 documents of 1 to 3 sequences, one of them without any, with a sidecar."""
    rng = np.random.RandomState(0)
    builder = MMapIndexedDatasetBuilder(str(tmp_path / "source"), "uint16")
    for number in range(60):
        for size in rng.randint(1, 30, 0 if number == 7 else rng.randint(1, 4)):
            builder.add_item(rng.randint(0, 400, size))
        builder.end_document()
    builder.finalize(tokenizer_sha256="a" * 64, vocab_size=400)
    return str(tmp_path / "source")


def same_files(one, two):
    return all(Path(one + end).read_bytes() == Path(two + end).read_bytes() for end in (".bin", ".idx"))


@pytest.mark.parametrize("tokens", [1, 50, 1 << 22])
def test_parts_merge_to_what_was_split(source, tmp_path, monkeypatch, tokens):
    monkeypatch.setattr(dataset_copy, "_TOKENS", tokens)
    monkeypatch.setattr(dataset_copy, "_DOCUMENTS", 5)
    parts = split_in_parts(source, str(tmp_path / "part"), 4)
    assert [Path(part.prefix).name for part in parts] == [f"part_{number:05}" for number in range(4)]
    assert max(part.tokens for part in parts) - min(part.tokens for part in parts) < 180  # two documents
    merged = merge_datasets([part.prefix for part in parts], str(tmp_path / "new" / "all"), command=["merge"])
    assert same_files(source, merged.prefix) and merged.documents == 60
    facts, old = read_sidecar(merged.prefix), read_sidecar(source)
    assert facts["command"] == ["merge"] and {**facts, "command": old["command"]} == old if "command" in old else True
    assert (facts["tokenizer_sha256"], facts["vocab_size"], facts["bin_sha256"]) == ("a" * 64, 400, old["bin_sha256"])


def test_as_many_parts_as_documents(make_pair, tmp_path):
    source = make_pair(sizes=(1, 1, 97, 1))
    parts = split_in_parts(source, str(tmp_path / "one"), 4)
    assert [part.tokens for part in parts] == [1, 1, 97, 1]
    for count in (0, 5):
        with pytest.raises(UsageError, match=f"--parts is {count}; .* has 4 documents"):
            split_in_parts(source, str(tmp_path / "one"), count)


def test_shares(source, tmp_path):
    made = split_by_shares(source, str(tmp_path / "cut"), "80,20,0")
    assert [(Path(part.prefix).name, part.documents) for part in made] == [("cut_train", 48), ("cut_valid", 12)]
    assert merge_datasets([part.prefix for part in made], str(tmp_path / "all")) and same_files(
        source, str(tmp_path / "all")
    )
    with pytest.raises(UsageError, match="0.1000% of the 60 documents of .* rounds to none for test"):
        split_by_shares(source, str(tmp_path / "none"), "949,50,1")
    assert not list(tmp_path.glob("none*"))


def test_datasets_that_do_not_go_together(make_pair, source, tmp_path):
    with pytest.raises(UsageError, match="another type of token than .*: expected uint16, found int32"):
        merge_datasets([make_pair("a"), make_pair("b", dtype="int32")], str(tmp_path / "c"))
    builder = MMapIndexedDatasetBuilder(str(tmp_path / "other"), "uint16")
    builder.add_item([1, 2])
    builder.end_document()
    builder.finalize(tokenizer_sha256="b" * 64)
    with pytest.raises(UsageError, match="another tokenizer than .*: expected aaaaaaaaaaaa, found bbbbbbbbbbbb"):
        merge_datasets([source, str(tmp_path / "other")], str(tmp_path / "c"))
    with pytest.raises(UsageError, match="is what is read from"):
        merge_datasets([make_pair("a"), source], os.path.join(tmp_path, ".", "source"))
    assert not list(tmp_path.glob("c*")) and len(make_dataset(source).doc_idx) == 61
    known = merge_datasets([source, make_pair("a")], str(tmp_path / "mixed"))
    assert "tokenizer_sha256" not in read_sidecar(known.prefix)


@pytest.mark.parametrize("kind", ["lazy", "legacy", "modes"])
def test_converted(tmp_path, make_pair, kind):
    old, new = str(tmp_path / "old"), make_pair("new", sizes=(5, 3, 7), dtype="int32")
    if kind == "modes":
        write_with_modes(new, old)
    else:
        (write_lazy if kind == "lazy" else write_legacy)(old)
    store = open_any(old)
    made = copy_documents([Slice(store, 0, store.num_documents)], str(tmp_path / "made"))
    assert same_files(made.prefix, new)
    lazy = copy_documents([Slice(store, 0, 3)], str(tmp_path / "lazy"), impl="lazy")
    assert np.array_equal(make_dataset(lazy.prefix, "lazy").tokens, np.arange(15))


def test_types(tmp_path, make_pair):
    store = open_any(make_pair(sizes=(5, 300), dtype="int32"))
    whole = [Slice(store, 0, 2)]
    copy_documents(whole, str(tmp_path / "small"), np.dtype("uint16"))
    small = make_dataset(str(tmp_path / "small"))
    assert small.dtype == np.uint16 and np.array_equal(small.tokens, np.arange(305))
    with pytest.raises(UsageError, match="token id 256 in document 0 or soon after does not fit uint8"):
        copy_documents(whole, str(tmp_path / "tiny"), np.dtype("uint8"))
    assert not list(tmp_path.glob("tiny*"))
    floats = open_any(make_pair("floats", dtype="float32"))
    with pytest.raises(UsageError, match="holds float32, not integers. Give --dtype"):
        copy_documents([Slice(floats, 0, 5)], str(tmp_path / "ids"))
    assert copy_documents([Slice(floats, 0, 5)], str(tmp_path / "ids"), np.dtype("int32")).tokens == 26


def test_a_disk_that_is_full(source, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(UsageError, match="cannot write this dataset: File too large.* It needs [0-9,]+ bytes"):
            merge_datasets([source], str(tmp_path / "out" / "all"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list((tmp_path / "out").iterdir())
