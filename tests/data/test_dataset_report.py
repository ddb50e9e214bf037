"""What is said about a dataset is what is in it."""

from __future__ import annotations

import numpy as np
import pytest

from paddlenlp.data import dataset_lengths
from paddlenlp.data.dataset_lengths import DocumentLengths, document_starts, draw_bars
from paddlenlp.data.dataset_report import count_dataset, describe, sample_documents, show_document, table
from paddlenlp.data.megatron import open_any
from paddlenlp.utils.errors import UsageError


@pytest.mark.parametrize("counted", [64, 1 << 20])
def test_lengths(make_pair, monkeypatch, counted):
    monkeypatch.setattr(dataset_lengths, "_CHUNK", 7)
    monkeypatch.setattr(dataset_lengths, "_COUNTED", counted)
    sizes = np.random.RandomState(1).randint(1, 60, 101)
    sizes[50] = 300
    lengths = DocumentLengths(open_any(make_pair(sizes=sizes, dtype="int32")))
    assert (lengths.documents, lengths.tokens) == (101, sizes.sum())
    assert (lengths.shortest, lengths.longest) == (sizes.min(), 300)
    for share in (0.01, 0.5, 0.95, 1.0):
        assert lengths.quantile(share) == np.sort(sizes)[int(np.ceil(share * 101)) - 1]
    for low, high, count in lengths.classes():
        assert count == ((sizes >= low) & (sizes <= high)).sum(), (low, high)
    assert sum(count for _, _, count in lengths.classes()) == 101


def test_starts_of_documents_without_sequences(make_pair):
    store = open_any(make_pair(sizes=(5, 3)))
    store.doc_idx = np.array([0, 0, 1, 2, 2])
    assert document_starts(store, 0, 4).tolist() == [0, 0, 5, 8, 8]


def test_bars_are_in_proportion():
    lines = draw_bars(["1", "2 to 3", "4"], [4, 8, 1], 4).splitlines()
    assert lines == ["     1  ██    4   30.8%", "2 to 3  ████  8   61.5%", "     4  ▌     1    7.7%"]


def test_description_and_documents(make_pair):
    prefix = make_pair(sizes=(5, 3, 7, 2, 9), sidecar=True)
    text = describe(prefix)
    assert "documents  5\n" in text and "tokens     26 (52 bytes)" in text and "2 to 9, mean 5.2" in text
    assert "50% 5" in text and text.count("█") > 50
    store = open_any(prefix)
    assert sample_documents(store, 3) == [0, 2, 4] and sample_documents(store, 9) == [0, 1, 2, 3, 4]
    assert sample_documents(store, 0) == []
    assert show_document(store, 1, 2) == "--- document 1 (3 tokens, first 2)\n5 6"

    class Letters:
        def decode(self, ids):
            return "".join(chr(97 + token) for token in ids)

    assert show_document(store, 4, 99, Letters()) == "--- document 4 (9 tokens)\nrstuvwxyz"
    with pytest.raises(UsageError, match="no document 5: expected 0 to 4"):
        show_document(store, 5, 2)


def test_table(make_pair):
    counts = [count_dataset(make_pair("a", sizes=(3, 3), sidecar=True)), count_dataset(make_pair("b", sizes=(2,)))]
    assert [row["max_token_id"] for row in counts] == [5, None]
    head, first, second, total = table(counts).splitlines()
    assert first.split()[:6] == ["2", "2", "6", "75.0%", "12", "uint16"] and first.endswith("/a")
    assert total.split() == ["3", "3", "8", "100.0%", "16", "all"] and second.split()[3] == "25.0%"
