"""Verification reads every byte: whatever is changed is found."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from paddlenlp.data import MMapIndexedDatasetBuilder, dataset_verify, read_sidecar
from paddlenlp.data.dataset_verify import record_facts, verify_dataset
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.files import sha256_file
from tests.data.other_formats import write_with_modes
from tests.data.test_older_formats import write_legacy


@pytest.fixture
def prefix(tmp_path, monkeypatch):
    """40,000 tokens in documents of 100, verified in several blocks."""
    monkeypatch.setattr(dataset_verify, "_BLOCK", 24576)
    builder = MMapIndexedDatasetBuilder(str(tmp_path / "text"), "uint16")
    for number in range(400):
        builder.add_item(np.arange(100) + number)
        builder.end_document()
    builder.finalize(vocab_size=500)
    return str(tmp_path / "text")


def put(prefix, token, value):
    with open(prefix + ".bin", "r+b") as file:
        file.seek(2 * token)
        file.write(np.uint16(value).tobytes())


def test_whole(prefix):
    verdict = verify_dataset(prefix)
    assert not verdict.problems and not verdict.notes and verdict.size > 80_000
    assert verdict.facts["bin_sha256"] == sha256_file(prefix + ".bin")
    assert {name: read_sidecar(prefix)[name] for name in verdict.facts} == verdict.facts


@pytest.mark.parametrize("token", [0, 4500, 20_001, 39_998])
def test_a_changed_token(prefix, token):
    Path(prefix + ".meta.json").write_text(
        Path(prefix + ".meta.json").read_text().replace("bin_sample_sha256", "unused")
    )  # so that the samples that opening compares do not find it first
    old = int(np.fromfile(prefix + ".bin", np.uint16)[token])
    put(prefix, token, old ^ 1)
    (problem,) = verify_dataset(prefix).problems
    assert "text.bin: bin_sha256 is" in problem and "text.meta.json records" in problem


@pytest.mark.parametrize("token", [0, 12_288, 39_999])
def test_an_id_beyond_the_vocabulary(prefix, token):
    Path(prefix + ".meta.json").unlink()
    put(prefix, token, 600)
    assert not verify_dataset(prefix, vocab_size=601).problems
    (problem,) = verify_dataset(prefix, vocab_size=600).problems
    assert f"token id 600 in document {token // 100} at token {token % 100}: not 0 to 599" in problem
    assert "no vocabulary known" in " ".join(verify_dataset(prefix).notes)


def test_a_negative_id(make_pair):
    prefix = make_pair(dtype="int32")
    tokens = np.fromfile(prefix + ".bin", "<i4")
    tokens[9] = -5
    tokens.tofile(prefix + ".bin")
    assert "token id -5 in document 2 at token 1: not 0 or more" in verify_dataset(prefix).problems[0]


def test_what_does_not_open_and_another_index(prefix):
    index = Path(prefix + ".idx").read_bytes()
    Path(prefix + ".idx").write_bytes(index[:-1])
    assert "its length does not fit its header" in verify_dataset(prefix).problems[0]
    merged = np.frombuffer(index[-8 * 401 :], "<i8").copy()
    merged[1] = 0  # an empty first document: in order, and other than was written
    Path(prefix + ".idx").write_bytes(index[: -8 * 401] + merged.tobytes())
    assert any("text.idx: idx_sha256 is" in problem for problem in verify_dataset(prefix).problems)


def test_another_copy(prefix, tmp_path):
    copy = str(tmp_path / "copy")
    for end in (".bin", ".idx"):
        shutil.copy(prefix + end, copy + end)
    assert not verify_dataset(copy, source=prefix).problems
    put(copy, 777, 1)
    assert verify_dataset(copy, source=prefix).problems == [f"{copy}.bin differs from {prefix}.bin. Copy it again."]
    assert "no such file" in verify_dataset(copy, source=str(tmp_path / "none")).problems[0]


def test_recorded_for_later(make_pair, tmp_path):
    prefix = make_pair()
    verdict = verify_dataset(prefix)
    assert "no bin_sha256 and idx_sha256 recorded" in verdict.notes[0]
    record_facts(verdict)
    assert read_sidecar(prefix)["max_token_id"] == 25 and not verify_dataset(prefix, 26).notes
    write_legacy(str(tmp_path / "old"))
    old = verify_dataset(str(tmp_path / "old"), 15)
    assert not old.problems and old.facts["max_token_id"] == 14
    assert old.facts["bin_sha256"] == sha256_file(tmp_path / "old_ids.npy")
    with pytest.raises(UsageError, match="the legacy format has none"):
        record_facts(old)
    Path(prefix + ".bin").unlink()
    with pytest.raises(UsageError, match="it is damaged"):
        record_facts(verify_dataset(prefix))


def test_megatron_files(make_pair, tmp_path):
    write_with_modes(make_pair(), str(tmp_path / "other"))
    assert not verify_dataset(str(tmp_path / "other"), 26).problems
