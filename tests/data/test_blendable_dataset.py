"""Blending: order, equality with the compiled helper, cache, and what is refused."""

from __future__ import annotations

import hashlib
import os
import sys

import numpy as np
import pytest

from paddlenlp.data import BlendableDataset
from paddlenlp.data import blending as module
from paddlenlp.data.blending import blending_indices, numpy_blending_indices, plain_blending_indices
from paddlenlp.utils.errors import UsageError

EXPECTED = [0, 1, 2, 0, 1, 0, 2, 0, 1, 0, 0, 1]
EXPECTED_SAMPLES = [0, 0, 0, 1, 1, 2, 1, 3, 2, 4, 5, 3]


class Numbers:
    """A dataset of one number a sample."""

    def __init__(self, name, length):
        self.desc = f"numbers {name}"
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return {"text": (self.desc, index)}


def datasets(lengths=(9, 9, 9)):
    return [Numbers(name, length) for name, length in zip("abc", lengths)]


@pytest.mark.parametrize("blend", [blending_indices, plain_blending_indices, numpy_blending_indices])
def test_check_vector_of_the_reference(blend):
    index, sample_index = blend(np.array([0.5, 0.3, 0.2]), 12)
    assert index.dtype == np.int16 and index.tolist() == EXPECTED
    assert sample_index.dtype == np.int64 and sample_index.tolist() == EXPECTED_SAMPLES


def random_weights(case):
    """Whole numbers (many equals), and others, some of them very small."""
    rng = np.random.RandomState(case)
    weights = rng.randint(1, 10, rng.randint(1, 300)).astype(float) if case % 2 else rng.rand(rng.randint(1, 20)) ** 4
    return weights / weights.sum()


def test_the_plain_loop_equals_fast_dataindex():
    pytest.importorskip("fast_dataindex.helpers")
    for case in range(40):
        weights = random_weights(case)
        for found, expected in zip(plain_blending_indices(weights.tolist(), 600), blending_indices(weights, 600)):
            assert found.dtype == expected.dtype and np.array_equal(found, expected)


@pytest.mark.parametrize("few", [0, 200])
@pytest.mark.parametrize("repeats", [0, 32])
def test_stretches_side_by_side_equal_the_plain_loop(monkeypatch, few, repeats):
    for name, value in {"_HEAD": 30, "_STEPS": 20, "_STRETCHES": 25, "_FEW": few, "_REPEATS": repeats}.items():
        monkeypatch.setattr(module, name, value)
    for case in range(12):
        weights = random_weights(case)
        for found, expected in zip(
            numpy_blending_indices(weights, 1234), plain_blending_indices(weights.tolist(), 1234)
        ):
            assert found.dtype == expected.dtype and np.array_equal(found, expected)


def test_wrong_guesses_change_nothing(monkeypatch):
    monkeypatch.setattr(module, "_HEAD", 8)
    monkeypatch.setattr(module, "_STEPS", 4)
    monkeypatch.setattr(module, "_turns", lambda weights, *_: np.full(len(weights), -3.0))
    weights = np.array([0.6, 0.39, 0.01])
    for found, expected in zip(numpy_blending_indices(weights, 900), plain_blending_indices(weights.tolist(), 900)):
        assert np.array_equal(found, expected)


def test_falls_back_without_the_package_or_its_int16_form(monkeypatch):
    class Old:
        @staticmethod
        def build_blending_indices(*arguments):
            raise TypeError("incompatible function arguments")

    for helpers in (None, Old):
        monkeypatch.setitem(sys.modules, "fast_dataindex.helpers", helpers)
        assert blending_indices(np.array([0.5, 0.3, 0.2]), 12)[0].tolist() == EXPECTED


def test_items_come_from_the_datasets_in_turn():
    blended = BlendableDataset(datasets(), [5, 3, 2], 12)
    assert len(blended) == 12
    for position, (number, sample) in enumerate(zip(EXPECTED, EXPECTED_SAMPLES)):
        item = blended[position]
        assert item["dataset_idx"] == number and item["text"] == (f"numbers {'abc'[number]}", sample)
    with pytest.raises(IndexError):
        blended[12]


def test_cache_names_are_the_references(tmp_path):
    BlendableDataset(datasets(), [5, 3, 2], 12, data_cache_path=str(tmp_path))
    text = "Blendable dataset\n\nDatasets:\nnumbers a\n\nnumbers b\n\nnumbers c\n\nWeights: [0.5 0.3 0.2]\nSize: 12\n"
    name = hashlib.md5(text.encode()).hexdigest()
    assert sorted(os.listdir(tmp_path)) == [
        f"{name}{end}" for end in (".checked", ".dsc", ".json", "_index.npy", "_sample_index.npy")
    ]
    assert (tmp_path / f"{name}.dsc").read_text() == text


@pytest.mark.parametrize("part", ["index", "sample_index"])
def test_damaged_cache_is_built_again(tmp_path, part):
    BlendableDataset(datasets(), [5, 3, 2], 12, data_cache_path=str(tmp_path))
    (path,) = tmp_path.glob(f"????????????????????????????????_{part}.npy")
    good = np.load(path)
    for bad in (np.zeros_like(good), good[:-1], good + 7):
        np.save(path, bad)
        blended = BlendableDataset(datasets(), [5, 3, 2], 12, data_cache_path=str(tmp_path))
        assert blended.dataset_index.tolist() == EXPECTED
        assert blended.dataset_sample_index.tolist() == EXPECTED_SAMPLES


def test_wrong_weights_and_short_datasets_are_refused():
    for weights in ([1, 1], [1, 1, 0], [1, 1, -1]):
        with pytest.raises(UsageError, match="3 datasets with weights"):
            BlendableDataset(datasets(), weights, 12)
    with pytest.raises(UsageError, match="dataset 1 has 3 samples, 4 are needed"):
        BlendableDataset(datasets((9, 3, 9)), [5, 3, 2], 12)
