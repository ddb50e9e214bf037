"""Experts dealt out over ranks, and the new parts cut over them, against one process."""

from __future__ import annotations

import pytest
from ranks import run_ranks

from paddlenlp.parallel.experts import own_experts
from paddlenlp.parallel.topology import Axis, Topology
from paddlenlp.utils.errors import UsageError

TARGET = "tests/parallel/work_experts.py:compare"
LOSS, GRADIENT = 1e-6, 1e-5
ROWS, HIDDEN, EXPERTS = 32, 16, 4  # of the layer by itself, as work_experts.py has it

EP2, TP2 = {"dp": 2, "ep": 2}, {"tp": 2}
TWO = {
    "ep2": {"model": "mixtral", "mesh": EP2},
    "ep2 balanced, accumulated": {"model": "mixtral balanced", "mesh": EP2, "micro_batches": 2},
    "ep2 over sharding": {"model": "deepseek", "mesh": {"sharding": 2, "ep": 2}},
    "ep2 recompute": {"model": "deepseek", "mesh": EP2, "recompute": True},
    "ep2 one layer": {"layer": {"gated": True, "biased": False}, "mesh": EP2},
    "ep2 all to one": {"layer": {"gated": False, "biased": True}, "mesh": EP2},
    "tp2 experts": {"model": "mixtral balanced", "mesh": TP2},
    # One sequence at a time: sequence parallelism cuts through it.
    "tp2+sp experts": {"model": "mixtral balanced", "mesh": TP2, "sp": True, "micro_batches": 4},
    "tp2 one layer": {"layer": {"gated": True, "biased": False}, "mesh": TP2},
    "tp2+sp one layer": {"layer": {"gated": True, "biased": False}, "mesh": TP2, "sp": True},
    "tp2 latent": {"model": "deepseek", "mesh": TP2},
    "tp2+sp latent": {"model": "deepseek", "mesh": TP2, "sp": True},
    "tp2 latent queries": {"model": "deepseek groups", "mesh": TP2},
    "tp2+sp latent queries": {"model": "deepseek groups", "mesh": TP2, "sp": True},
    "sep2 balanced": {"model": "deepseek", "mesh": {"sep": 2}},
    "cp2 balanced": {"model": "deepseek", "mesh": {"cp": 2}},
    "tp2 bloom": {"model": "bloom", "mesh": TP2},
    "tp2+sp bloom": {"model": "bloom", "mesh": TP2, "sp": True},
    "dp2 bloom": {"model": "bloom", "mesh": {"dp": 2}, "micro_batches": 2},
}
FOUR = {
    "ep4": {"model": "mixtral balanced", "mesh": {"dp": 4, "ep": 4}},
    "ep2 in dp4": {"model": "mixtral", "mesh": {"dp": 4, "ep": 2}},
    "ep2 over sharding2, dp2": {"model": "deepseek groups", "mesh": {"dp": 2, "sharding": 2, "ep": 2}},
    "ep2 tp2": {"model": "mixtral balanced", "mesh": {**EP2, **TP2}},
    "ep2 tp2+sp": {"model": "mixtral balanced", "mesh": {**EP2, **TP2}, "sp": True},
    "ep2 tp2+sp recompute": {"model": "deepseek groups", "mesh": {**EP2, **TP2}, "sp": True, "recompute": True},
    "ep2 tp2+sp all to one": {"layer": {"gated": True, "biased": True}, "mesh": {**EP2, **TP2}, "sp": True},
    "tp4 bloom": {"model": "bloom", "mesh": {"tp": 4}, "sp": True},
}


@pytest.fixture(scope="module")
def two():
    return dict(zip(TWO, zip(*run_ranks(2, TARGET, list(TWO.values())))))


@pytest.fixture(scope="module")
def four():
    return dict(zip(FOUR, zip(*run_ranks(4, TARGET, list(FOUR.values())))))


def check(ranks):
    for number, found in enumerate(ranks):
        assert found["loss"] < LOSS, number
        assert found["gradient"] < GRADIENT, (number, found["worst"])


@pytest.mark.parametrize("case", TWO)
def test_two_ranks_compute_as_one(two, case):
    check(two[case])


@pytest.mark.parametrize("case", FOUR)
def test_four_ranks_compute_as_one(four, case):
    check(four[case])


def test_each_rank_holds_its_experts_only(two, four):
    assert [found["experts"] for found in two["ep2"]] == [2 * 2 * 3] * 2  # layers x experts x matrices
    assert [found["experts"] for found in four["ep4"]] == [2 * 2 * 3] * 4
    assert all(found["held"] == 1.0 for found in two["tp2 experts"])
    assert all(found["held"] < 1.0 for found in two["ep2"])


def test_only_counts_rows_and_their_gradients_are_sent(two):
    ranks, choices = two["ep2 one layer"], 2
    assert [found["calls"] for found in ranks] == [5, 5]
    rows = 4 * ROWS * choices * HIDDEN * 4  # there and back, forward and backward; float32
    assert sum(found["bytes"] for found in ranks) == rows + 2 * EXPERTS * 8
    assert all(found["calls"] == 0 for found in two["tp2 experts"])


def test_experts_that_cannot_be_dealt_out(monkeypatch):
    monkeypatch.setattr("paddlenlp.parallel.experts.topology", lambda: Topology(ep=Axis(4, 1)))
    assert own_experts(8) == range(2, 4)
    with pytest.raises(UsageError, match="6 experts .* over 4 ranks: set expert_parallel_degree to a divisor of 6"):
        own_experts(6)
