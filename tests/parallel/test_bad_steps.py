"""Bad numbers at five places in each layout: all ranks decide alike, nothing is left of the step, the record says where
they came from."""

from __future__ import annotations

import pytest
from ranks import run_ranks
from work_bad_steps import BAD_STEP, MARKED, matrix, replayed

from tests.trainer.bad_numbers import SPOILT

ALONE = {"one": {"per_device_train_batch_size": 4}}
PAIRS = {
    "dp2": {"per_device_train_batch_size": 2},
    "sharding2": {"per_device_train_batch_size": 2, "sharding": "stage3", "sharding_parallel_degree": 2},
    "tp2": {"per_device_train_batch_size": 4, "tensor_parallel_degree": 2},
    "pp2": {"per_device_train_batch_size": 4, "pipeline_parallel_degree": 2},
}
LAYOUTS = [*ALONE, *PAIRS]
PLACES = ["loss", "one rank", "gradient", "weight", "data"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("bad")


@pytest.fixture(scope="module")
def runs(folder):
    """Layout -> rank -> place -> what is left of the run."""
    alone = [matrix({"layouts": list(ALONE.values()), "folder": str(folder / "alone")})]
    payload = {"layouts": list(PAIRS.values()), "folder": str(folder / "pairs")}
    pairs = run_ranks(2, "tests/parallel/work_bad_steps.py:matrix", payload)
    return {name: list(ranks) for name, ranks in zip(LAYOUTS, [*zip(*alone), *zip(*pairs)])}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_bad_step_leaves_nothing_behind(runs, layout, place):
    for rank in runs[layout]:
        assert rank[place]["error"] is None
        assert rank[place]["state"] == rank[""]["state"]
        assert rank[place]["history"] == rank[""]["history"] and len(rank[""]["history"]) == 5


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_record_says_what_and_where(runs, layout, place):
    world = len(runs[layout])
    records = runs[layout][0][place]["records"]
    assert len(records) == 1
    record = records[0]
    assert record["step"] == BAD_STEP and record["action"] == ("rollback" if place in ("weight", "data") else "skip")
    assert record["sample_ids"] == [[16, 17, 18, 19], [20, 21, 22, 23]] and record["consumed_samples"] == 16
    assert ("gradient norm" if place == "gradient" else "Loss contains inf or nan") in record["reason"]
    expected = {
        "loss": None,
        "one rank": None,
        "gradient": {"kind": "gradient", "name": SPOILT, "bad": 1},
        "weight": {"kind": "weight", "name": SPOILT, "rank": 0 if layout == "sharding2" else world - 1, "bad": 1},
        "data": {"kind": "gradient", "name": "lm_head.weight"},
    }[place]
    found = record["first_bad_tensor"]
    assert (found is None) == (expected is None) and (not expected or expected.items() <= found.items())
    if place == "data":
        shared = layout in ("dp2", "sharding2")
        rank = 1 if shared or layout == "pp2" else 0
        ids = [22, 23] if shared else [20, 21, 22, 23]
        assert record["bad_micro_batches"] == [{"micro_batch": 1, "rank": rank, "sample_ids": ids}] and MARKED in ids
        assert found["bad"] == found["tensors"]
    elif place == "weight":
        readers = 2 if layout == "sharding2" else 1  # there both compute with what one of them keeps
        assert len(record["bad_micro_batches"]) == 2 * readers
    else:
        assert record["bad_micro_batches"] == []


def test_where_a_gradient_goes_bad_is_known_as_far_as_it_is_not_summed(runs):
    found = {layout: runs[layout][0]["gradient"]["records"][0]["first_bad_tensor"] for layout in LAYOUTS}
    assert found["tp2"]["rank"] == found["pp2"]["rank"] == 1
    assert found["one"]["rank"] == found["dp2"]["rank"] == 0


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_batch_of_a_record_is_run_again(runs, layout):
    for rank in runs[layout]:
        (record,), again = runs[layout][0]["data"]["records"], rank["replayed"]
        assert again["tensor"] == record["first_bad_tensor"] and again["samples"] == record["samples_sha256"]
        assert again["reason"] == record["reason"] and again["checkpoint"].endswith("checkpoint-2") and again["to"] == 2
        assert [bad["micro_batch"] for bad in again["micro_batches"]] == [1]


def test_one_process_runs_the_batch_of_two_ranks(runs, folder):
    again = replayed(str(folder / "pairs/0/data"), per_device_train_batch_size=4)
    (record,) = runs["dp2"][0]["data"]["records"]
    assert again["samples"] == record["samples_sha256"]
    assert [(bad["micro_batch"], bad["rank"]) for bad in again["micro_batches"]] == [(1, 0)]


def test_the_samples_have_one_hash_in_every_layout(runs):
    hashes = {runs[layout][0][place]["records"][0]["samples_sha256"] for layout in LAYOUTS for place in PLACES}
    assert len(hashes) == 1
