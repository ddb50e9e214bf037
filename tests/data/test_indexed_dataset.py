"""The mmap format, byte for byte, and that no broken pair opens."""

from __future__ import annotations

import json
import os
import struct

import numpy as np
import pytest

from paddlenlp.data import (
    MMapIndexedDataset,
    MMapIndexedDatasetBuilder,
    best_dtype,
    layout_checks,
    make_builder,
    make_dataset,
)
from paddlenlp.data import indexed_dataset as module
from paddlenlp.data.token_store import DTYPES, dtype_code
from paddlenlp.utils.errors import UsageError


def test_files_are_the_documented_bytes(tmp_path):
    builder = MMapIndexedDatasetBuilder(str(tmp_path / "a"), np.uint16)
    builder.add_item([1, 2, 3])
    builder.add_item([4])
    builder.end_document()
    builder.add_item(np.array([65535, 6]))
    builder.end_document()
    builder.finalize()
    assert (tmp_path / "a.bin").read_bytes() == struct.pack("<6H", 1, 2, 3, 4, 65535, 6)
    expected = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 8, 3, 3)
    expected += struct.pack("<3i", 3, 1, 2) + struct.pack("<3q", 0, 6, 8) + struct.pack("<3q", 0, 2, 3)
    assert (tmp_path / "a.idx").read_bytes() == expected
    assert sorted(os.listdir(tmp_path)) == ["a.bin", "a.idx", "a.meta.json"]


def test_dtype_codes_are_the_reference_table():
    names = ["uint8", "int8", "int16", "int32", "int64", "float64", "float32", "uint16", "uint32", "uint64"]
    assert {code: dtype.name for code, dtype in DTYPES.items()} == dict(enumerate(names, 1))
    assert dtype_code(">u2") == 8
    with pytest.raises(UsageError, match="float16 cannot be stored"):
        dtype_code(np.float16)


@pytest.mark.parametrize("dtype", [dtype.name for dtype in DTYPES.values()])
def test_every_dtype_round_trips(tmp_path, dtype):
    builder = make_builder(str(tmp_path / "a"), dtype)
    builder.add_item([1, 2, 100])
    builder.end_document()
    builder.finalize()
    dataset = MMapIndexedDataset(str(tmp_path / "a"), skip_warmup=False)
    assert dataset.dtype == np.dtype(dtype) and dataset[0].tolist() == [1, 2, 100]


def test_reading(make_pair):
    dataset = MMapIndexedDataset(make_pair())
    assert len(dataset) == 5 and dataset.num_documents == 5 and dataset.dtype == np.uint16
    assert dataset.sizes.tolist() == [5, 3, 7, 2, 9]
    assert dataset.pointers.tolist() == [0, 10, 16, 30, 34]
    assert dataset.doc_idx.tolist() == [0, 1, 2, 3, 4, 5]
    assert dataset[2].tolist() == [8, 9, 10, 11, 12, 13, 14]
    assert dataset.get(2, offset=4).tolist() == [12, 13, 14]
    assert dataset.get(2, 1, 2).tolist() == [9, 10]
    for wrong in [(2, 0, 8), (2, -1, 2), (2, 6, 2), (5, 0, 1)]:
        with pytest.raises(IndexError):
            dataset.get(*wrong)


def test_checks_work_across_chunks(make_pair, monkeypatch):
    monkeypatch.setattr(layout_checks, "_CHUNK", 2)
    prefix = make_pair()
    make_dataset(prefix)
    patch(prefix + ".idx", SIZES + 12, struct.pack("<i", 3))
    with pytest.raises(UsageError, match="pointer of sequence 4"):
        make_dataset(prefix)
    patch(make_pair() + ".idx", DOCUMENTS + 16, struct.pack("<q", 0))
    with pytest.raises(UsageError, match="falls at document 2"):
        make_dataset(prefix)


def test_warm_up_reads_both_files(make_pair, monkeypatch):
    prefix, read = make_pair(), []
    monkeypatch.setattr(module, "warm_up", read.append)
    MMapIndexedDataset(prefix)
    assert read == []
    MMapIndexedDataset(prefix, skip_warmup=False)
    assert read == [prefix + ".idx", prefix + ".bin"]


def patch(path, offset, data):
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def cut(path, length):
    os.truncate(path, length)


def append(path, data):
    with open(path, "ab") as file:
        file.write(data)


def big_endian(prefix):
    with open(prefix + ".idx", "wb") as file:
        file.write(b"MMIDIDX\x00\x00" + struct.pack(">QBQQ", 1, 8, 1, 2) + struct.pack(">iqqq", 26, 0, 0, 1))


SIZES, POINTERS, DOCUMENTS = 34, 34 + 4 * 5, 34 + 12 * 5
MUTATIONS = {
    "bin one byte short": (lambda p: cut(p + ".bin", 51), r"\.bin .*expected 52 bytes.*found 51 bytes \(1 missing"),
    "bin half": (lambda p: cut(p + ".bin", 26), r"\.bin .*expected 52 bytes \(26 tokens of uint16\), found 26"),
    "bin empty": (lambda p: cut(p + ".bin", 0), r"\.bin .*the file is empty"),
    "bin extra": (lambda p: append(p + ".bin", b"xx"), r"\.bin .*found 54 bytes \(2 too many\)"),
    "bin missing": (lambda p: os.unlink(p + ".bin"), r"missing \S*text\.bin \(found only \S*text\.idx\)"),
    "idx missing": (lambda p: os.unlink(p + ".idx"), r"missing \S*text\.idx"),
    "idx empty": (lambda p: cut(p + ".idx", 0), r"\.idx .*the file is empty"),
    "idx cut in magic": (lambda p: cut(p + ".idx", 5), r"\.idx .*does not start as an index file"),
    "idx cut in header": (lambda p: cut(p + ".idx", 20), r"\.idx .*header is cut off.*34 bytes, found 20"),
    "idx cut in sizes": (lambda p: cut(p + ".idx", 40), r"\.idx .*expected 142 bytes, found 40 bytes"),
    "idx cut in pointers": (lambda p: cut(p + ".idx", 60), r"\.idx .*expected 142 bytes, found 60 bytes"),
    "idx cut at the end": (lambda p: cut(p + ".idx", 141), r"\.idx .*expected 142 bytes, found 141 bytes"),
    "idx extra": (lambda p: append(p + ".idx", b"x"), r"\.idx .*expected 142 bytes, found 143 bytes"),
    "magic": (lambda p: patch(p + ".idx", 0, b"PK"), r"\.idx .*does not start as an index file"),
    "lazy magic": (lambda p: patch(p + ".idx", 0, b"TNTIDX\0\0"), r"\.idx .*Set --data_impl lazy"),
    "version": (lambda p: patch(p + ".idx", 9, struct.pack("<Q", 2)), r"version is not known.*expected 1, found 2"),
    "big endian": (big_endian, r"\.idx .*written big-endian"),
    "dtype code unknown": (lambda p: patch(p + ".idx", 17, b"\x0b"), r"dtype code is not known.*1 to 10, found 11"),
    "dtype code int32": (lambda p: patch(p + ".idx", 17, b"\x04"), r"says int32 \(4 bytes.*which fits 2 bytes a token"),
    "count of sequences": (lambda p: patch(p + ".idx", 18, struct.pack("<Q", 6)), r"\(6 sequences, 6 document entries"),
    "no sequences": (
        lambda p: (patch(p + ".idx", 18, struct.pack("<QQ", 0, 1)), cut(p + ".idx", 42)),
        r"lists no sequences",
    ),
    "negative size": (lambda p: patch(p + ".idx", SIZES + 8, struct.pack("<i", -7)), r"size of sequence 2 is negative"),
    "one size": (
        lambda p: patch(p + ".idx", SIZES + 8, struct.pack("<i", 8)),
        r"pointer of sequence 3 .*byte 32, found",
    ),
    "last size": (lambda p: patch(p + ".idx", SIZES + 16, struct.pack("<i", 8)), r"expected 50 bytes.*found 52"),
    "pointers swapped": (
        lambda p: patch(p + ".idx", POINTERS + 8, struct.pack("<qq", 16, 10)),
        r"pointer of sequence 1 .*expected byte 10, found byte 16",
    ),
    "documents start": (
        lambda p: patch(p + ".idx", DOCUMENTS, struct.pack("<q", 1)),
        r"0 first and 5 last, found 1 and",
    ),
    "documents end": (lambda p: patch(p + ".idx", DOCUMENTS + 40, struct.pack("<q", 4)), r"5 last, found 0 and 4"),
    "documents fall": (
        lambda p: patch(p + ".idx", DOCUMENTS + 8, struct.pack("<qq", 3, 1)),
        r"falls at document 2.*expected >= 3, found 1",
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_broken_pairs_are_refused_at_open(make_pair, name):
    prefix = make_pair()
    mutate, message = MUTATIONS[name]
    mutate(prefix)
    with pytest.raises(UsageError, match=f"(?i){message}"):
        make_dataset(prefix)


def test_a_bin_of_another_dataset_is_refused(make_pair, tmp_path):
    make_pair("other", sizes=(4, 4))
    prefix = make_pair()
    os.replace(tmp_path / "other.bin", prefix + ".bin")
    with pytest.raises(UsageError, match="Expected 52 bytes"):
        make_dataset(prefix)


def test_sidecar_tells_files_of_equal_length_apart(make_pair):
    prefix = make_pair(sidecar=True)
    make_dataset(prefix)
    patch(prefix + ".bin", 30, b"\xff")
    with pytest.raises(UsageError, match="other content than .*text.meta.json records"):
        make_dataset(prefix)


def test_sidecar_facts_are_compared(make_pair):
    prefix = make_pair(sidecar=True)
    with open(prefix + ".meta.json") as file:
        good = json.load(file)
    for name, value in {"dtype": "int16", "documents": 4, "tokens": 27, "bin_bytes": 50}.items():
        with open(prefix + ".meta.json", "w") as file:
            json.dump({**good, name: value}, file)
        with pytest.raises(UsageError, match=f"records another {name}"):
            make_dataset(prefix)
    for text, message in (("{", "is not JSON"), ("[]", "holds a list")):
        with open(prefix + ".meta.json", "w") as file:
            file.write(text)
        with pytest.raises(UsageError, match=message):
            make_dataset(prefix)


def test_loss_mask_is_ignored(make_pair):
    prefix = make_pair()
    with open(prefix + ".lsm", "wb") as file:
        file.write(b"\x01" * 26)
    assert len(make_dataset(prefix)) == 5


def test_best_dtype_is_the_scripts_rule():
    assert best_dtype(65534) == np.uint16
    assert best_dtype(65535) == np.int32


def test_unknown_impl_is_refused(make_pair):
    with pytest.raises(UsageError, match="data_impl is 'cached'"):
        make_dataset(make_pair(), "cached")
    with pytest.raises(UsageError, match="'cached' cannot be written. Expected mmap or lazy"):
        make_builder("x", np.uint16, "cached")
