"""Reads that fail for a moment are tried again, counted and logged; others and lasting ones are not hidden."""

import errno
import os

import numpy as np
import pytest

from paddlenlp.utils import reading
from paddlenlp.utils import retries as module
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.log import logger
from paddlenlp.utils.retries import retries, retrying
from paddlenlp.utils.tensor_files import TensorFiles, write_tensor_file


@pytest.fixture
def pauses(monkeypatch):
    """Seconds that were waited; nothing is."""
    found = []
    monkeypatch.setattr(module.time, "sleep", found.append)
    monkeypatch.setattr(retries, "limit", 3)
    return found


@pytest.fixture
def warnings(monkeypatch):
    found = []
    monkeypatch.setattr(logger, "warning", lambda text, *rest: found.append(text % rest if rest else text))
    return found


class Failing:
    """Fails with these errors, one after the other, then returns "content"."""

    def __init__(self, *numbers):
        self.numbers = list(numbers)

    def __call__(self):
        if self.numbers:
            number = self.numbers.pop(0)
            raise OSError(number, os.strerror(number))
        return "content"


def test_transient_errors_are_tried_again_after_growing_pauses(pauses, warnings):
    before = retries.total
    assert retrying(Failing(errno.EIO, errno.ESTALE, errno.ETIMEDOUT), "/data/x") == "content"
    assert pauses == [0.1, 0.2, 0.4]
    assert retries.total == before + 3
    assert len(warnings) == 3
    assert "/data/x: reading failed (Stale file handle); trying again in 0.2 s, time 2 of 3" in warnings[1]


def test_a_lasting_error_is_raised_when_the_tries_are_used_up(pauses, warnings):
    with pytest.raises(OSError, match="Input/output error"):
        retrying(Failing(*[errno.EIO] * 4), "/data/x")
    assert len(pauses) == 3


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.EISDIR])
def test_errors_that_stay_are_raised_at_once(pauses, number):
    with pytest.raises(OSError):
        retrying(Failing(number), "/data/x")
    assert pauses == []


def test_without_retries_the_first_error_counts(pauses, monkeypatch):
    monkeypatch.setattr(retries, "limit", 0)
    with pytest.raises(OSError):
        retrying(Failing(errno.EIO), "/data/x")
    assert pauses == []


def test_tensors_survive_failing_and_short_reads(tmp_path, pauses, warnings, monkeypatch):
    array = np.arange(3000, dtype=np.float32).reshape(30, 100)
    write_tensor_file(tmp_path / "model.safetensors", {"x": array})
    files, preadv, calls = TensorFiles(tmp_path), os.preadv, []

    def flaky(descriptor, views, offset):
        calls.append(offset)
        if len(calls) % 3 == 0:
            raise OSError(errno.ESTALE, "Stale file handle")
        return preadv(descriptor, [views[0][:1000]], offset)

    monkeypatch.setattr(reading.os, "preadv", flaky)
    monkeypatch.setattr(retries, "limit", 40)
    assert files.part("x", [[(0, 30)], [(0, 90)]]).tolist() == array[:, :90].reshape(-1).tolist()
    assert len(warnings) >= 3
    assert files.raw("x").tobytes() == array.tobytes()


def test_a_read_that_keeps_failing_names_the_file(tmp_path, pauses, warnings, monkeypatch):
    write_tensor_file(tmp_path / "model.safetensors", {"x": np.ones([8], np.float32)})
    files = TensorFiles(tmp_path)

    def broken(*arguments):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(reading.os, "preadv", broken)
    with pytest.raises(UsageError, match=r"model\.safetensors: cannot be read: Input/output error.*read_retries"):
        files.raw("x")
    assert len(pauses) == 3


def test_hashing_a_checkpoint_survives_a_failing_read(tmp_path, pauses, warnings, monkeypatch):
    from paddlenlp.checkpoint import manifest

    folder = tmp_path / "checkpoint-1"
    folder.mkdir()
    (folder / "file").write_bytes(b"content")
    manifest.write_manifest(folder, 1, {})
    hash_of, errors = manifest.sha256_file, Failing(errno.EIO)
    monkeypatch.setattr(manifest, "sha256_file", lambda path: (errors(), hash_of(path))[1])
    assert manifest.verify(folder) == []
    assert len(warnings) == 1


def test_a_dataset_opens_after_a_failing_read(tmp_path, pauses, warnings, monkeypatch):
    from paddlenlp.data import indexed_dataset, mapped
    from paddlenlp.data.indexed_builder import MMapIndexedDatasetBuilder

    builder = MMapIndexedDatasetBuilder(str(tmp_path / "d"), np.uint16)
    builder.add_item(np.array([1, 2, 3]))
    builder.end_document()
    builder.finalize()
    make, errors = mapped._mapped, Failing(errno.EIO, errno.ETIMEDOUT)
    monkeypatch.setattr(mapped, "_mapped", lambda path: (errors(), make(path))[1])
    assert indexed_dataset.MMapIndexedDataset(str(tmp_path / "d"))[0].tolist() == [1, 2, 3]
    assert len(warnings) == 2
