"""The lazy and the legacy format offer what the mmap format does."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from paddlenlp.data import CompatibleIndexedDataset, IndexedDataset, make_dataset
from paddlenlp.utils.errors import UsageError

SIZES = [5, 3, 7]


def write_lazy(prefix, dims=None, sizes=SIZES):
    tokens = np.arange(sum(SIZES), dtype="<i4")
    tokens.tofile(prefix + ".bin")
    offsets = np.cumsum([0] + SIZES)
    dims = np.arange(len(sizes) + 1) if dims is None else np.array(dims)
    with open(prefix + ".idx", "wb") as file:
        file.write(b"TNTIDX\x00\x00" + struct.pack("<QQQQQQ", 1, 4, 4, len(offsets) - 1, len(sizes), 4))
        file.write(dims.astype("<i8").tobytes() + offsets.astype("<i8").tobytes())
        file.write(np.array(sizes, "<i4").tobytes() + np.arange(4, dtype="<i8").tobytes())


def write_legacy(prefix, tokens=None):
    np.save(prefix + "_ids.npy", np.arange(sum(SIZES), dtype=np.int32) if tokens is None else tokens)
    np.savez(prefix + "_idx.npz", lens=np.array(SIZES, np.int32), docs=np.arange(4))


@pytest.mark.parametrize("kind", ["lazy", "legacy"])
def test_same_interface_as_mmap(tmp_path, make_pair, kind):
    prefix = str(tmp_path / "old")
    (write_lazy if kind == "lazy" else write_legacy)(prefix)
    old, mmap = make_dataset(prefix, "lazy"), make_dataset(make_pair(sizes=SIZES, dtype="int32"))
    assert isinstance(old, IndexedDataset if kind == "lazy" else CompatibleIndexedDataset)
    assert old.dtype == mmap.dtype
    for name in ("sizes", "pointers", "doc_idx", "tokens"):
        assert np.array_equal(getattr(old, name), getattr(mmap, name)), name
    assert old.get(2, 1, 3).tolist() == [9, 10, 11]


def test_legacy_files_come_first(tmp_path, make_pair):
    prefix = make_pair("both")
    write_legacy(prefix)
    assert isinstance(make_dataset(prefix, "mmap"), CompatibleIndexedDataset)


def test_broken_lazy_files(tmp_path, make_pair):
    prefix = str(tmp_path / "lazy")
    with pytest.raises(UsageError, match="Set --data_impl mmap"):
        make_dataset(make_pair(), "lazy")
    write_lazy(prefix, dims=[0, 2, 3, 4], sizes=[5, 1, 3, 7])
    with pytest.raises(UsageError, match="several dimensions"):
        make_dataset(prefix, "lazy")
    write_lazy(prefix)
    with open(prefix + ".bin", "ab") as file:
        file.write(b"\0\0\0\0")
    with pytest.raises(UsageError, match="4 too many"):
        make_dataset(prefix, "lazy")
    with open(prefix + ".idx", "ab") as file:
        file.write(b"\0")
    with pytest.raises(UsageError, match="length does not fit its header"):
        make_dataset(prefix, "lazy")
    with open(prefix + ".idx", "r+b") as file:
        file.seek(24)
        file.write(b"\x02")
    with pytest.raises(UsageError, match="code 4, item size 2"):
        make_dataset(prefix, "lazy")


def test_broken_legacy_files(tmp_path):
    prefix = str(tmp_path / "old")
    write_legacy(prefix, np.arange(14, dtype=np.int32))
    with pytest.raises(UsageError, match="Expected 15 tokens, found 14 tokens"):
        make_dataset(prefix)
    write_legacy(prefix, np.zeros(15))
    with pytest.raises(UsageError, match="not a row of token ids"):
        make_dataset(prefix)
    write_legacy(prefix, np.array([{}] * 15))
    with pytest.raises(UsageError, match="cannot be read"):
        make_dataset(prefix)
    write_legacy(prefix)
    np.savez(prefix + "_idx.npz", lens=np.array(SIZES))
    with pytest.raises(UsageError, match="cannot be read: 'docs"):
        make_dataset(prefix)
