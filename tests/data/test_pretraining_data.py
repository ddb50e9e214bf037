"""From prefixes to the three datasets."""

from __future__ import annotations

import math

import numpy as np
import pytest

from paddlenlp.data import BlendableDataset, GPTDataset, build_train_valid_test_datasets, make_dataset, pretraining_data
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.log import logger


def build(data_prefix, split="8,1,1", wanted=(6, 2, 1), **options):
    return build_train_valid_test_datasets(data_prefix, "mmap", split, list(wanted), 4, 42, **options)


def tokens_of(dataset):
    return {int(token) for index in range(len(dataset)) for token in dataset[index]["text"]}


def test_splits_share_nothing_and_suffice(make_pair):
    prefix = make_pair(sizes=[10] * 20)
    datasets = build([prefix], wanted=(30, 20, 10))
    assert [type(dataset) for dataset in datasets] == [GPTDataset] * 3
    assert [dataset.name for dataset in datasets] == ["train", "valid", "test"]
    assert [len(dataset) >= wanted for dataset, wanted in zip(datasets, (30, 20, 10))] == [True] * 3
    train, valid, test = map(tokens_of, datasets)
    assert len(train) > 150 and train <= set(range(160))
    assert valid == set(range(160, 180)) and test == set(range(180, 200))


def test_reports_are_printed(make_pair, capsys):
    build([make_pair(sizes=[10] * 20)])
    out = capsys.readouterr().out
    assert " > datasets target sizes (minimum size):\n    train:      6\n" in out
    assert "    validation:\n     document indices in [16, 18) total of 2 documents\n" in out


def test_an_unused_split_is_none_and_a_wanted_one_must_have_documents(make_pair):
    prefix = make_pair()
    train, valid, test = build([prefix], split="998,1,1", wanted=(6, 0, 0))
    assert len(train) >= 6 and valid is None and test is None
    with pytest.raises(
        UsageError, match=r"0 documents in split 'valid' \(split 998,1,1 of 5 documents of \S+text\): need"
    ):
        build([prefix], split="998,1,1")


def texts(dataset, count):
    return [dataset[index]["text"].tolist() for index in range(count)]


@pytest.mark.parametrize("stable", [True, False])
def test_a_stable_order_does_not_change_when_more_is_read(make_pair, stable):
    """7 passes in place of 3, of documents that do not fill samples; and with a second dataset beside it."""
    prefixes = [make_pair(name, sizes=[7, 12, 5, 9]) for name in ("a", "b")]
    order = {"split": "1,0,0", "stable_order": stable}
    few, many = (build(prefixes[:1], wanted=(count, 0, 0), **order)[0] for count in (20, 55))
    blend = build([1, prefixes[0], 1, prefixes[1]], wanted=(100, 0, 0), **order)[0]
    assert few.plan.epochs < many.plan.epochs and few.desc != many.desc
    assert (texts(few, 20) == texts(many, 20)) is stable
    alone = [text for text, number in zip(texts(blend, 100), blend.dataset_index) if number == 0]
    assert (alone[:20] == texts(few, 20)) is stable


def test_the_shares_of_a_blend_are_told(make_pair, monkeypatch):
    heard = []
    monkeypatch.setattr(logger, "info", heard.append)
    prefixes = [make_pair(name, sizes=[10] * 10) for name in ("a", "b")]
    build([3, prefixes[0], 1, prefixes[1]], split="1,0,0", wanted=(40, 0, 0))
    told = [line for line in heard if "    > " in line]
    assert told == [
        f"    > {prefixes[0]}: 30 samples, 75.000 % (weight 75.000 %), 1.20 epochs of its tokens",
        f"    > {prefixes[1]}: 10 samples, 25.000 % (weight 25.000 %), 0.40 epochs of its tokens",
    ]


def test_blending(make_pair, tmp_path):
    prefixes = [make_pair(name, sizes=[10] * 10) for name in ("a", "b")]
    cache = tmp_path / "cache"
    train, valid, test = build([3, prefixes[0], "1", prefixes[1]], wanted=(40, 4, 0), data_cache_path=str(cache))
    assert isinstance(train, BlendableDataset) and isinstance(valid, BlendableDataset) and test is None
    assert len(train) == 40 and train.weights.tolist() == [0.75, 0.25]
    assert np.bincount(train.dataset_index).tolist() == [30, 10]
    for dataset, weight in zip(train.datasets, (0.75, 0.25)):
        assert f"Number of samples {math.ceil(40 * weight * 1.005) + 20}\n" in dataset.desc
    assert len(list(cache.glob("*.dsc"))) == 6 and not (tmp_path / "index-cache").exists()


def test_a_dataset_without_documents_in_a_split_leaves_the_blend(make_pair, monkeypatch):
    seen = []
    monkeypatch.setattr(logger, "warning", seen.append)
    prefixes = [make_pair("small", sizes=[100]), make_pair("b", sizes=[10] * 10), make_pair("c", sizes=[10] * 10)]
    mixed = [word for weight, prefix in zip((0.5, 0.2, 0.3), prefixes) for word in (weight, prefix)]
    train, valid, _ = build(mixed, split="9,1", wanted=(40, 10, 0))
    assert len(train.datasets) == 3 and len(valid.datasets) == 2
    assert valid.weights.tolist() == [0.4, 0.6] and np.bincount(valid.dataset_index).tolist() == [4, 6]
    assert "Number of samples 27\n" in valid.datasets[1].desc  # ceil(10 * 0.6 * 1.005) + 20
    assert len(seen) == 1 and "small: left out of that split" in seen[0]
    with pytest.raises(UsageError, match=r"0 documents in split 'test' .* of 21 documents"):
        build(mixed, split="9,1", wanted=(40, 10, 1))


def test_processes_without_data_build_only_what_they_must(make_pair, tmp_path):
    prefix = make_pair()
    assert build([prefix], split="1", wanted=(6, 0, 0), need_data=False, is_builder=False) == (None, None, None)
    assert not (tmp_path / "index-cache").exists()
    assert build([prefix], split="1", wanted=(6, 0, 0), need_data=False, is_builder=True) == (None, None, None)
    assert len(list((tmp_path / "index-cache").glob("*.npy"))) == 3
    train, _, _ = build([prefix], split="1", wanted=(6, 0, 0), is_builder=False)
    assert len(train) == 6


def test_share_folder_decides_who_builds(make_pair, tmp_path, monkeypatch):
    monkeypatch.setenv("PADDLE_TRAINER_ID", "8")
    monkeypatch.setenv("PADDLE_RANK_IN_NODE", "0")
    arguments = {"split": "1", "wanted": (6, 0, 0), "need_data": False}
    build([make_pair()], share_folder=True, **arguments)
    assert not (tmp_path / "index-cache").exists()
    build([make_pair()], share_folder=False, **arguments)
    assert (tmp_path / "index-cache").exists()


def test_format_and_warm_up_are_passed_on(make_pair, monkeypatch):
    asked = []

    def open_noting(prefix, impl, skip_warmup):
        asked.append((impl, skip_warmup))
        return make_dataset(prefix)

    monkeypatch.setattr(pretraining_data, "make_dataset", open_noting)
    for impl, skip_warmup in (("mmap", False), ("lazy", True)):
        build_train_valid_test_datasets([make_pair()], impl, "1", [6, 0, 0], 4, 42, skip_warmup)
    assert asked == [("mmap", False), ("lazy", True)]


def test_odd_lists_are_refused():
    for wrong in ([], [1, "a", 2]):
        with pytest.raises(UsageError, match="Expected one prefix, or pairs"):
            build(wrong)
