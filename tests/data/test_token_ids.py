"""The largest token id: recorded, or found by reading."""

from __future__ import annotations

import numpy as np
import pytest

from paddlenlp.data import MMapIndexedDatasetBuilder, make_dataset, max_token_id, read_sidecar, write_sidecar
from paddlenlp.data import token_ids as module
from paddlenlp.utils.errors import UsageError


def test_recorded_or_scanned(make_pair, monkeypatch):
    assert max_token_id(make_pair("scanned")) == 25
    prefix = make_pair("recorded", sidecar=True)
    monkeypatch.setattr(module, "_scan", lambda *_: pytest.fail("read all tokens"))
    assert max_token_id(prefix) == 25


def test_scan_covers_every_chunk(make_pair, monkeypatch):
    prefix = make_pair()
    monkeypatch.setattr(module, "_CHUNK", 4)
    assert max_token_id(prefix) == 25
    with pytest.raises(UsageError, match=r"token id 16 \(in document 3 at token 1\)"):
        module.check_token_ids(make_dataset(prefix), 16)


def test_place_of_a_bad_id_is_document_and_token(tmp_path):
    builder = MMapIndexedDatasetBuilder(str(tmp_path / "a"), np.int32)
    for sequence in ([1, 2], [3, 4]):  # one document of two sequences
        builder.add_item(sequence)
    builder.end_document()
    builder.add_item([5, 900, 7])
    builder.end_document()
    builder.finalize()
    store = make_dataset(str(tmp_path / "a"))
    with pytest.raises(UsageError, match=r"token id 900 \(in document 1 at token 1\).*vocabulary has 900 tokens"):
        module.check_token_ids(store, 900)
    with pytest.raises(UsageError, match=r"token id 4 \(in document 0 at token 3"):
        module.check_token_ids(store, 4)
    module.check_token_ids(store, 901)


def test_negative_ids_are_refused(tmp_path, make_pair):
    prefix = make_pair(dtype="int32")
    with open(prefix + ".bin", "r+b") as file:
        file.seek(4 * 6)
        file.write(b"\xff" * 4)
    with pytest.raises(UsageError, match=r"token id -1 \(in document 1 at token 1\)"):
        module.check_token_ids(make_dataset(prefix), 100)


def test_types_too_small_for_a_bad_id_are_not_read(make_pair, monkeypatch):
    store = make_dataset(make_pair())
    monkeypatch.setattr(module, "_scan", lambda *_: pytest.fail("read all tokens"))
    module.check_token_ids(store, 65536)


def test_sidecar_alone_is_enough_to_refuse(make_pair):
    prefix = make_pair(sidecar=True)
    write_sidecar(prefix, {**read_sidecar(prefix), "max_token_id": 500})
    with pytest.raises(UsageError, match=r"token id 500 \(as its .meta.json says\)"):
        module.check_token_ids(make_dataset(prefix), 100)
