"""GPTDataset: its samples, its cache files, and that an index of other data is not used."""

from __future__ import annotations

import hashlib
import os
import re

import numpy as np
import pytest

from paddlenlp.data import GPTDataset, make_dataset
from paddlenlp.data.causal_dataset import PARTS, index_problem
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.log import logger


def open_dataset(prefix, documents=range(5), wanted=9, seq_length=4, seed=42, **options):
    return GPTDataset("train", prefix, documents, make_dataset(prefix), "1", wanted, seq_length, seed, **options)


def plain_samples(store, dataset):
    """All samples the slow way: cut the concatenated documents at every seq_length tokens."""
    stream = np.concatenate([store[document] for document in dataset.doc_idx.tolist()]).astype(np.int64)
    step = dataset.seq_length
    return [stream[row * step : row * step + step + 1] for row in dataset.shuffle_idx.tolist()]


@pytest.mark.parametrize("wanted, seq_length", [(3, 4), (9, 4), (40, 4), (5, 11), (3, 60)])
def test_samples_are_cuts_of_the_shuffled_documents(make_pair, wanted, seq_length):
    prefix = make_pair(sizes=(5, 3, 7, 1, 9))
    dataset = open_dataset(prefix, wanted=wanted, seq_length=seq_length)
    expected = plain_samples(make_dataset(prefix), dataset)
    assert len(dataset) == len(expected) >= wanted
    for index, tokens in enumerate(expected):
        found = dataset[index]["text"]
        assert found.dtype == np.int64 and found.tolist() == tokens.tolist()
    assert dataset[-1]["text"].tolist() == expected[-1].tolist()
    with pytest.raises(IndexError):
        dataset[len(dataset)]


def test_only_documents_of_the_split_are_read(make_pair):
    prefix = make_pair()
    dataset = open_dataset(prefix, documents=range(1, 4), wanted=20)
    assert set(np.concatenate([dataset[i]["text"] for i in range(len(dataset))])) == set(range(5, 17))
    assert {document for i in range(len(dataset)) for document in dataset.document_ids(i)} == {1, 2, 3}


def test_document_ids(make_pair):
    prefix = make_pair()
    dataset, store = open_dataset(prefix), make_dataset(prefix)
    for index in range(len(dataset)):
        tokens = set(dataset[index]["text"].tolist())
        read = [document for document in range(5) if tokens & set(store[document].tolist())]
        assert sorted(set(dataset.document_ids(index))) == read


def test_cache_names_are_the_references(make_pair, tmp_path, monkeypatch):
    make_pair(folder=tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    open_dataset("./data/text", wanted=7)
    text = (
        "GPT Dataset\n\nData prefix ./data/text\nDataset name train\nNumber of samples 7\nSequence length 4\n"
        "Random seed 42\nSplit 1\n"
    )
    name = hashlib.md5(text.encode()).hexdigest()
    folder = tmp_path / "data" / "index-cache"
    assert sorted(os.listdir(folder)) == [
        f"{name}.checked",
        f"{name}.dsc",
        f"{name}.json",
        f"{name}_doc_idx.npy",
        f"{name}_sample_idx.npy",
        f"{name}_shuffle_idx.npy",
    ]
    assert (folder / f"{name}.dsc").read_text() == text
    assert [np.load(folder / f"{name}_{part}.npy").dtype for part in PARTS] == [np.int32, np.int32, np.uint32]


def test_order_is_that_of_the_seed(make_pair):
    prefix = make_pair()
    first, again, other = (open_dataset(prefix, seed=seed).shuffle_idx.tolist() for seed in (1, 1, 2))
    assert first == again != other


def test_index_of_other_data_is_built_again(make_pair, monkeypatch):
    seen = []
    monkeypatch.setattr(logger, "warning", seen.append)
    open_dataset(make_pair())
    prefix = make_pair(sizes=(9, 2, 7, 3, 5))
    dataset = open_dataset(prefix)
    assert len(seen) == 1 and "other data or settings: " in seen[0] and "idx_sha256 was" in seen[0]
    assert [dataset[i]["text"].tolist() for i in range(len(dataset))] == [
        tokens.tolist() for tokens in plain_samples(make_dataset(prefix), dataset)
    ]


def broken(part, change):
    def apply(arrays):
        changed = {name: array.copy() for name, array in arrays.items()}
        changed[part] = change(changed[part])
        return changed

    return apply


def with_value(index, value):
    def change(array):
        array[index] = value
        return array

    return change


@pytest.mark.parametrize(
    "damage, reason",
    [
        (broken("doc_idx", np.zeros_like), "doc_idx does not hold every document 2 times"),
        (broken("doc_idx", with_value(0, 5)), "doc_idx does not hold"),
        (broken("doc_idx", with_value(0, -1)), "doc_idx does not hold"),
        (broken("doc_idx", lambda a: a[:-1]), r"doc_idx is int32 \[9\], expected int32 \[10\]"),
        (broken("doc_idx", lambda a: a.astype(np.int64)), "doc_idx is int64"),
        (broken("sample_idx", np.zeros_like), r"sample_idx does not fit the document sizes \(row 1\)"),
        (broken("sample_idx", with_value((3, 0), 10)), r"\(row 3\): the data has changed"),
        (broken("sample_idx", with_value((3, 1), -1)), r"\(row 3\)"),
        (broken("sample_idx", with_value((0, 1), 1)), r"\(row 0\)"),
        (broken("sample_idx", lambda a: a[1:]), r"sample_idx is int32 \[12, 2\]"),
        (broken("shuffle_idx", np.zeros_like), "shuffle_idx is not a permutation"),
        (broken("shuffle_idx", with_value(0, 99)), "shuffle_idx is not a permutation"),
        (broken("shuffle_idx", lambda a: a.astype(np.int64)), "shuffle_idx is int64"),
    ],
)
def test_every_wrong_value_is_found(make_pair, damage, reason):
    prefix = make_pair()
    dataset = open_dataset(prefix)
    arrays = {part: np.array(getattr(dataset, part)) for part in PARTS}
    check = (make_dataset(prefix).sizes, range(5), 4, dataset.plan)
    assert index_problem(arrays, *check) is None
    assert re.search(reason, index_problem(damage(arrays), *check))


def test_a_row_that_runs_past_its_document_is_found(make_pair):
    prefix = make_pair()
    dataset, sizes = open_dataset(prefix), make_dataset(prefix).sizes
    arrays = {part: np.array(getattr(dataset, part)) for part in PARTS}
    row = int(np.argmax(arrays["sample_idx"][:, 0] > 0))
    entry = arrays["sample_idx"][row, 0] - 1
    arrays["sample_idx"][row] = entry, arrays["sample_idx"][row, 1] + sizes[arrays["doc_idx"][entry]]
    assert f"(row {row})" in index_problem(arrays, sizes, range(5), 4, dataset.plan)


def test_empty_documents_are_no_problem(make_pair):
    prefix = make_pair(sizes=(0, 5, 0, 4, 0, 0))
    for seed in range(20):
        dataset = open_dataset(prefix, documents=range(6), wanted=10, seed=seed)
        expected = plain_samples(make_dataset(prefix), dataset)
        assert [dataset[i]["text"].tolist() for i in range(len(dataset))] == [tokens.tolist() for tokens in expected]


def test_a_split_without_tokens_is_refused(make_pair):
    prefix = make_pair(sizes=(5, 0, 0))
    with pytest.raises(UsageError, match=r"'train' of \S+ holds no tokens: its 2 documents \[1, 3\)"):
        open_dataset(prefix, documents=range(1, 3))


def test_a_split_shorter_than_a_sample_is_warned_about(make_pair, monkeypatch):
    seen = []
    monkeypatch.setattr(logger, "warning", seen.append)
    open_dataset(make_pair(), seq_length=26)
    assert len(seen) == 1 and "26 tokens, fewer than the 27 of one sample" in seen[0]
