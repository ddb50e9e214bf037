"""The sample order, against a plain loop, fast_dataindex and vectors made with the reference."""

from __future__ import annotations

import numpy as np
import pytest

from paddlenlp.data import index_builder as module
from paddlenlp.data.index_builder import (
    build_doc_idx,
    build_index,
    build_sample_idx,
    build_shuffle_idx,
    fast_dataindex,
    plan_epochs,
    quiet_stdout,
)
from paddlenlp.utils.errors import UsageError

SIZES = np.array([5, 3, 7, 2, 9], np.int32)


def loop_sample_idx(sizes, doc_idx, seq_length, samples):
    """Walk the stream document by document, as the format's definition says."""
    rows, document, offset = [[0, 0]], 0, 0
    for _ in range(samples):
        remaining = seq_length + 1
        while True:
            available = sizes[doc_idx[document]] - offset
            if remaining <= available:
                offset += remaining - 1
                break
            remaining -= available
            document, offset = document + 1, 0
        rows.append([document, offset])
    return np.array(rows)


def random_case(rng):
    sizes = rng.randint(0 if rng.rand() < 0.3 else 1, rng.choice([2, 4, 50]) + 1, rng.randint(1, 40)).astype(np.int32)
    sizes[rng.randint(len(sizes))] += 2
    seq_length, wanted = int(rng.randint(2, 30)), int(rng.randint(1, 60))
    plan = plan_epochs(int(sizes.sum()), seq_length, wanted)
    return sizes, build_doc_idx(range(len(sizes)), plan, rng), seq_length, plan


def test_check_vector_of_the_reference():
    rng = np.random.RandomState(42)
    plan = module.EpochPlan(tokens=26, epochs=2, samples=12, head=12)
    doc_idx = build_doc_idx(range(5), plan, rng)
    assert doc_idx.dtype == np.int32 and doc_idx.tolist() == [3, 1, 0, 0, 2, 2, 4, 4, 3, 1]
    rows = [[0, 0], [1, 2], [2, 3], [3, 2], [4, 1], [4, 5], [5, 2], [5, 6], [6, 3], [6, 7], [7, 2], [7, 6], [8, 1]]
    found = build_sample_idx(SIZES, doc_idx, 4, 12)
    assert found.dtype == np.int32 and found.tolist() == rows
    shuffle_idx = build_shuffle_idx(plan, rng)
    assert shuffle_idx.dtype == np.uint32
    assert shuffle_idx.tolist() == [0, 10, 9, 1, 8, 5, 11, 3, 4, 7, 6, 2]


@pytest.mark.parametrize("block", [1, 3, 10, 1 << 15])
def test_samples_equal_the_plain_loop(monkeypatch, block):
    monkeypatch.setattr(module, "_BLOCK", block)
    rng = np.random.RandomState(0)
    for _ in range(500):
        sizes, doc_idx, seq_length, plan = random_case(rng)
        expected = loop_sample_idx(sizes, doc_idx, seq_length, plan.samples)
        found = build_sample_idx(sizes, doc_idx, seq_length, plan.samples)
        assert found.dtype == np.int32 and np.array_equal(found, expected)


@pytest.mark.parametrize("longest, unit", [(70_000, 1), (70_000, 30_000), (65_535, 1), (300, 1)])
def test_documents_of_all_lengths(longest, unit):
    """Lengths that uint16 can hold and those it can't; sums within a block that int32 can hold and those it can't."""
    rng = np.random.RandomState(3)
    sizes = rng.randint(0, longest + 1, 300).astype(np.int32) * unit
    sizes[:2] = 0, longest * unit
    for seq_length in (2048 * unit, 40_000 * unit + 1):
        plan = plan_epochs(int(sizes.sum(dtype=np.int64)), seq_length, 200)
        doc_idx = build_doc_idx(range(len(sizes)), plan, rng)
        expected = loop_sample_idx(sizes.astype(np.int64), doc_idx, seq_length, plan.samples)
        assert np.array_equal(build_sample_idx(sizes, doc_idx, seq_length, plan.samples), expected)


def test_samples_equal_fast_dataindex(capfd):
    pytest.importorskip("fast_dataindex.helpers")
    rng = np.random.RandomState(1)
    for _ in range(1000):
        sizes, doc_idx, seq_length, plan = random_case(rng)
        with quiet_stdout():
            compiled = fast_dataindex().build_sample_idx(sizes, doc_idx, seq_length, plan.epochs, plan.tokens)
        found = build_sample_idx(sizes, doc_idx, seq_length, plan.samples)
        assert compiled.dtype == found.dtype and np.array_equal(compiled, found)
    assert capfd.readouterr().out == ""


def test_what_is_too_large_to_be_widened_is_shuffled_alike(monkeypatch):
    plan = plan_epochs(26, 4, 7)
    wide = build_index(SIZES, range(5), 4, plan, 42)
    monkeypatch.setattr(module, "_WIDE", 0)
    for part, array in build_index(SIZES, range(5), 4, plan, 42).items():
        assert array.dtype == wide[part].dtype and np.array_equal(array, wide[part])


def test_the_whole_is_its_parts_from_one_generator():
    plan, rng = plan_epochs(26, 4, 7), np.random.RandomState(42)
    built = build_index(SIZES, range(5), 4, plan, 42)
    assert list(built) == ["doc_idx", "sample_idx", "shuffle_idx"]
    assert np.array_equal(built["doc_idx"], build_doc_idx(range(5), plan, rng))
    assert np.array_equal(built["sample_idx"], build_sample_idx(SIZES, built["doc_idx"], 4, plan.samples))
    assert np.array_equal(built["shuffle_idx"], build_shuffle_idx(plan, rng))


@pytest.mark.parametrize("seq_length", [4, 11, 60])
def test_the_stable_order_of_few_epochs_begins_that_of_more(seq_length):
    few, more = (
        build_index(SIZES, range(5), seq_length, plan_epochs(26, seq_length, wanted), 7, stable_order=True)
        for wanted in (9, 40)
    )
    for part, array in few.items():
        longer = np.asarray(more[part])
        assert array.shape[0] < len(longer) and np.array_equal(array, longer[: array.shape[0]])
    assert sorted(more["shuffle_idx"]) == list(range(len(more["shuffle_idx"])))
    assert all(sorted(epoch) == list(range(5)) for epoch in more["doc_idx"].reshape(-1, 5))
    other = build_index(SIZES, range(5), seq_length, plan_epochs(26, seq_length, 40), 8, stable_order=True)
    assert not np.array_equal(other["doc_idx"], more["doc_idx"])


def test_the_stable_order_shuffles_samples_within_their_epoch():
    plan = plan_epochs(26, 4, 40)
    built = build_index(SIZES, range(5), 4, plan, 7, stable_order=True)
    ends = (np.arange(plan.samples) + 1) * 4 // 26  # the epoch of the last token
    assert np.array_equal(ends[built["shuffle_idx"]], ends)
    assert not np.array_equal(built["shuffle_idx"], np.arange(plan.samples))
    epochs = built["doc_idx"].reshape(-1, 5)
    assert not np.array_equal(epochs[0], epochs[1])


@pytest.mark.parametrize(
    "tokens, wanted, epochs, samples, head",
    [
        (26, 6, 1, 6, 6),
        (26, 7, 2, 12, 6),  # 1 of 6 more samples: under 80 %, the last epoch is shuffled by itself
        (26, 9, 2, 12, 6),  # 3 of 6 < int(4.8)
        (26, 10, 2, 12, 12),  # 4 of 6 is not < int(4.8) = 4
        (26, 0, 1, 6, 6),
        (3, 5, 7, 5, 5),  # an epoch shorter than a sample
    ],
)
def test_epoch_plan(tokens, wanted, epochs, samples, head):
    plan = plan_epochs(tokens, 4, wanted)
    assert (plan.epochs, plan.samples, plan.head) == (epochs, samples, head)


def test_epochs_are_the_smallest_number_that_suffices():
    rng = np.random.RandomState(2)
    for _ in range(2000):
        tokens, seq_length, wanted = (int(rng.randint(1, top)) for top in (200, 60, 300))
        epochs = 1
        while (epochs * tokens - 1) // seq_length < wanted:
            epochs += 1
        assert plan_epochs(tokens, seq_length, wanted).epochs == epochs


def test_separate_last_epoch_is_shuffled_after_the_others():
    plan = plan_epochs(26, 4, 7)
    rng = np.random.RandomState(5)
    doc_idx, shuffle_idx = build_doc_idx(range(10, 15), plan, rng), build_shuffle_idx(plan, rng)
    check = np.random.RandomState(5)
    first, last = np.arange(10, 15), np.arange(10, 15)
    check.shuffle(first)
    check.shuffle(last)
    head, tail = np.arange(6), np.arange(6, 12)
    check.shuffle(head)
    check.shuffle(tail)
    assert doc_idx.tolist() == [*first, *last] and shuffle_idx.tolist() == [*head, *tail]


def test_more_entries_than_int32_counts_are_refused():
    plan = module.EpochPlan(tokens=10, epochs=2**30, samples=1, head=1)
    with pytest.raises(UsageError, match="1073741824 epochs of 3 documents"):
        build_doc_idx(range(3), plan, np.random.RandomState(0))


def test_shuffle_idx_type():
    assert module.shuffle_dtype(2**32 - 3) == np.uint32
    assert module.shuffle_dtype(2**32 - 2) == np.int64
