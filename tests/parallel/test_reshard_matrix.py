"""The checkpoint of every layout is read in every layout: all tensors bit for bit, and the losses that follow."""

from __future__ import annotations

import pytest
from ranks import run_ranks
from work_reshard import MATRIX, PRECISIONS, SAVED, UNMERGED, WORLD

NAMES = list(MATRIX)
RING = [f"{source} > {target}" for source, target in zip(NAMES, [*NAMES[1:], NAMES[0]])]
CELLS = [(precision, source, target) for precision in PRECISIONS for source in NAMES for target in NAMES]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    payload = {
        "folder": str(tmp_path_factory.mktemp("matrix")),
        "precisions": list(PRECISIONS),
        "losses": RING,
        "steps": 1,
    }
    return run_ranks(WORLD, "tests/parallel/work_reshard.py:matrix", payload)


def on_its_ranks(ranks, precision, kind, target):
    found = [rank[precision][kind][target] for rank in ranks]
    assert all(one is None for one in found[MATRIX[target].world :])
    return found[: MATRIX[target].world]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("source", NAMES)
def test_files_hold_what_the_ranks_hold(ranks, precision, source):
    for found in on_its_ranks(ranks, precision, "written", source):
        assert found["differing"] == []


@pytest.mark.parametrize("precision, source, target", CELLS)
def test_every_tensor_is_the_same_after_reading(ranks, precision, source, target):
    for found in on_its_ranks(ranks, precision, "read", target):
        assert found[source]["differing"] == []


@pytest.mark.parametrize("precision, source, target", CELLS)
def test_position_and_learning_rate_are_carried_over(ranks, precision, source, target):
    expected = on_its_ranks(ranks, precision, "written", source)[0]
    for found in (found[source] for found in on_its_ranks(ranks, precision, "read", target)):
        assert found["state"] == [SAVED, SAVED * 4, 0.25]
        assert found["schedule"] == expected["schedule"]


@pytest.mark.parametrize("precision, source, target", CELLS)
def test_each_rank_reads_the_bytes_that_it_needs(ranks, precision, source, target):
    for found in (found[source] for found in on_its_ranks(ranks, precision, "read", target)):
        assert found["bytes"] == found["needed"]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("cell", RING)
def test_the_next_loss_is_that_of_the_run_that_went_on(ranks, precision, cell):
    source, target = cell.split(" > ")
    (expected,) = on_its_ranks(ranks, precision, "written", source)[0]["losses"]
    for found in on_its_ranks(ranks, precision, "read", target):
        (loss,) = found[source]["losses"]
        assert abs(loss - expected) <= 1e-6 * expected


@pytest.mark.parametrize("source", UNMERGED)
@pytest.mark.parametrize("target", UNMERGED)
def test_an_optimizer_saved_as_it_is_is_read_in_every_layout(ranks, source, target):
    for found in [rank["from unmerged"][target] for rank in ranks[: MATRIX[target].world]]:
        assert found[source]["differing"] == []
        assert found[source]["bytes"] == found[source]["needed"]


def test_an_optimizer_saved_as_it_is_lies_in_a_file_of_each_rank(ranks):
    assert ranks[0]["unmerged"]["one"] == ["master_weights.safetensors", "optimizer.safetensors"]
    files = [f"optimizer.tp{t:02d}_pp{p:02d}_shard{s:02d}.safetensors" for t in (0, 1) for p in (0, 1) for s in (0, 1)]
    found = ranks[0]["unmerged"]["tp2pp2 sharding2 stage1"]
    assert [name for name in found if name.startswith("optimizer")] == files


def test_the_ranks_verify_together_and_all_say_what_is_damaged(ranks):
    found = [rank["verified"] for rank in ranks[:4]]
    assert [one["found"] for one in found] == [f"checkpoint-{SAVED}"] * 4
    assert found[0]["left"] == ["checkpoint-1", "checkpoint-3.rejected"]
    hashed = [file for one in found for file in one["hashed"]]
    assert len(hashed) == len(set(hashed))
    assert {file.partition("/")[0] for file in hashed} == {"checkpoint-1", "checkpoint-3"}
    assert min(len(one["hashed"]) for one in found) >= 2
    for one in found:
        (line,) = [line for line in one["said"] if "checkpoint-3 is not a whole checkpoint" in line]
        assert "optimizer-" in line and "SHA-256 differs" in line
