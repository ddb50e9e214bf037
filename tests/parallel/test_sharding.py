"""Data parallelism and the three sharding stages: equal to one process, in memory and traffic what they should be."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Dict, List

import pytest
from ranks import run_ranks

WORK = "tests/parallel/work_sharding.py:runs"
DP: Dict[str, Any] = {}
O2 = {"bf16": True, "fp16_opt_level": "O2"}
MASTER_GRAD = {**O2, "amp_master_grad": True}
RECOMPUTE = {"recompute": True}


def shard(stage: int, degree: int, **more: Any) -> Dict[str, Any]:
    return {"sharding": f"stage{stage}", "sharding_parallel_degree": degree, **more}


def case(layout: Dict[str, Any], steps: int = 3, weights: str = "plain", **more: Any) -> Dict[str, Any]:
    return {"layout": layout, "steps": steps, "weights": weights, **more}


def tied(layout: Dict[str, Any], steps: int = 3, **more: Any) -> Dict[str, Any]:
    return case(layout, steps, "tied", tie_word_embeddings=True, **more)


ONE = {
    "plain": case({}),
    "tied": tied({}, 20),
    "deep": case({}, weights="deep", num_hidden_layers=4),
    "bf16": case(O2, weights="bf16", micro_batches=3),
    "bf16, float32 gradients": case(MASTER_GRAD, weights="bf16 master", micro_batches=3),
}
"""Runs of one process."""

TWO = {
    "dp2": tied({}, 20, micro_batches=3),
    "pp2": tied({"pipeline_parallel_degree": 2}, 20, micro_batches=3),
    "dp2, one micro batch": case({}),
    "dp2, one bucket": case({}, bucket=1 << 25),
    **{f"stage {stage}": tied(shard(stage, 2), 20, micro_batches=3) for stage in (1, 2, 3)},
    **{f"stage {stage}, one micro batch": case(shard(stage, 2)) for stage in (1, 2, 3)},
    "stage 3, one bucket": case(shard(3, 2), bucket=1 << 25, micro_batches=2),
    **{
        f"stage 3, {granularity} recomputed, reentrant {mode}": case(
            shard(3, 2, **RECOMPUTE, recompute_granularity=granularity, recompute_use_reentrant=mode)
        )
        for granularity in ("full", "full_attn", "core_attn")
        for mode in (False, True)
    },
    **{
        f"bf16, {name}": case({**O2, **layout}, weights="bf16", micro_batches=3)
        for name, layout in (("dp2", DP), ("stage 1", shard(1, 2)), ("stage 2", shard(2, 2)), ("stage 3", shard(3, 2)))
    },
    **{
        f"bf16, float32 gradients, {name}": case({**MASTER_GRAD, **layout}, weights="bf16 master", micro_batches=3)
        for name, layout in (("dp2", DP), ("stage 1", shard(1, 2)), ("stage 2", shard(2, 2)), ("stage 3", shard(3, 2)))
    },
}
FOUR = {
    "dp4": tied(DP, micro_batches=3),
    **{f"stage {stage} of 4": tied(shard(stage, 4), micro_batches=3) for stage in (1, 2, 3)},
    **{f"dp2, stage {stage} of 2": tied(shard(stage, 2), micro_batches=3) for stage in (1, 2, 3)},
    "interleaved pipeline, stage 3 of 2": case(
        shard(3, 2, pipeline_parallel_degree=2, virtual_pp_degree=2),
        weights="deep",
        num_hidden_layers=4,
        micro_batches=2,
    ),
    "stage 2, offload": tied(dict(shard(2, 4), sharding="stage2 offload")),
}

STAGES = {"dp": DP, **{f"stage {stage}": shard(stage, 2) for stage in (1, 2, 3)}}
OTHERS_OF_TWO: Dict[str, Any] = {
    **{f"overflow, {name}": ("overflow", {"layout": layout}) for name, layout in STAGES.items()},
    **{f"resumed, {name}": ("resumed", {"layout": layout}) for name, layout in STAGES.items()},
    "resumed, bf16": ("resumed", {"layout": {**O2, **shard(3, 2)}}),
    **{f"frozen, {name}": ("partly_frozen", {"layout": layout}) for name, layout in STAGES.items()},
    "values": ("set_values", {"layout": shard(3, 2)}),
    **{f"memory, {name}": ("memory", {"layout": layout}) for name, layout in STAGES.items()},
    **{f"sent, {name}": ("sent", {"layout": layout, "micro_batches": 3}) for name, layout in STAGES.items()},
}
OTHERS_OF_FOUR: Dict[str, Any] = {
    **{f"memory, stage {stage}": ("memory", {"layout": shard(stage, 4)}) for stage in (1, 2, 3)},
    "sent, stage 2": ("sent", {"layout": shard(2, 2), "micro_batches": 3}),
}


def found(world: int, folder: Path) -> List[Dict[str, Any]]:
    """What the ranks of a launch found."""
    results = launched(world, folder)
    if isinstance(results, AssertionError):
        raise results
    return results


@cache
def launched(world: int, folder: Path) -> Any:
    """What they found, or how they failed: one launch serves all tests either way."""
    cases, others = {
        1: (ONE, {"memory": ("memory", {"layout": {}}), "frozen": ("partly_frozen", {"layout": {}})}),
        2: (TWO, OTHERS_OF_TWO),
        4: (FOUR, OTHERS_OF_FOUR),
    }[world]
    if world > 1:
        found(1, folder)
    try:
        return run_ranks(world, WORK, {"cases": cases, "others": others, "folder": str(folder)})
    except AssertionError as failure:
        return failure


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


def gap(own: float, expected: float) -> float:
    return abs(own - expected) / abs(expected)


def check(world: int, name: str, case_: Dict[str, Any], folder: Path, first: float, later: float, end: float) -> None:
    """Compare losses, norms and weights on all ranks with one process."""
    reference = {"bf16 master": "bf16, float32 gradients"}.get(case_["weights"], case_["weights"])
    expected = found(1, folder)[0][reference]["steps"]
    for rank, results in enumerate(found(world, folder)):
        own, where = results[name]["steps"], f"{name}, rank {rank}"
        assert own == found(world, folder)[0][name]["steps"], f"{where}: not what rank 0 has"
        assert gap(own[0][0], expected[0][0]) < first, f"{where}: loss of step 1"
        assert gap(own[0][1], expected[0][1]) < first, f"{where}: gradient norm of step 1"
        assert max(gap(a[0], b[0]) for a, b in zip(own, expected)) < later, f"{where}: losses"
        assert len(own) < len(expected) or results[name]["distance"] < end, f"{where}: weights"


@pytest.mark.parametrize("name", [name for name in TWO if not name.startswith("bf16")])
def test_two_ranks_equal_one_process(name: str, folder: Path) -> None:
    """In fleet a pipeline counts a tied table twice in the norm ("pp2"), and clearing gradients detaches them from the
    fused buffer where parameters are split ("stage 1")."""
    check(2, name, TWO[name], folder, 1e-6, 1e-5, 1e-3)


@pytest.mark.parametrize("name", FOUR)
def test_four_ranks_equal_one_process(name: str, folder: Path) -> None:
    """In fleet stage 3 clips by the norm of the sharding group alone ("dp2, stage 3 of 2")."""
    check(4, name, FOUR[name], folder, 1e-6, 1e-5, 1e-3)


def test_steps_are_clipped_so_that_a_wrong_norm_would_show(folder: Path) -> None:
    assert all(norm > 0.5 for _, norm, _ in found(1, folder)[0]["tied"]["steps"])


@pytest.mark.parametrize("name", [name for name in TWO if name.startswith("bf16")])
def test_low_precision_follows_one_process(name: str, folder: Path) -> None:
    """Weights are not compared: Adam's first steps move them by the learning rate, by the sign of gradients that are
    rounded in other places."""
    check(2, name, TWO[name], folder, 2e-3, 2e-3, float("inf"))


@pytest.mark.parametrize("name", STAGES)
def test_overflow_on_one_rank_leaves_the_step_out_on_all(name: str, folder: Path) -> None:
    ranks = [results[f"overflow, {name}"] for results in found(2, folder)]
    for own in ranks:
        assert own["applied"] == [True, False, True]
        assert own["same"]
        assert own["scale"] == 512.0
    assert ranks[0]["loss"] == ranks[1]["loss"]


@pytest.mark.parametrize("name", [*STAGES, "bf16"])
def test_state_of_the_pieces_is_all_that_a_run_goes_on_from(name: str, folder: Path) -> None:
    assert all(results[f"resumed, {name}"] for results in found(2, folder))


@pytest.mark.parametrize("name", STAGES)
def test_frozen_parameters_stay(name: str, folder: Path) -> None:
    expected = found(1, folder)[0]["frozen"]
    assert len(expected["frozen"]) == 3
    for results in found(2, folder):
        own = results[f"frozen, {name}"]
        assert own["kept"] == own["frozen"] == expected["frozen"]
        for mine, theirs in zip(own["steps"], expected["steps"]):
            assert gap(mine[0], theirs[0]) < 1e-6 and gap(mine[1], theirs[1]) < 1e-6


def test_stage_3_parameters_can_be_read_and_set(folder: Path) -> None:
    for results in found(2, folder):
        own = results["values"]
        assert not own["held"]
        assert own["read"] == list(range(32))
        assert own["losses"][0] == own["losses"][1] > 0


ROUNDING = 0.03
"""Share of small tensors and of what fills buckets up."""


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_memory_falls_with_the_sharding_degree(world: int, stage: int, folder: Path) -> None:
    whole = found(1, folder)[0]["memory"]["parameters"]
    for results in found(world, folder):
        own = results[f"memory, stage {stage}"]
        held = whole / world if stage == 3 else whole
        for moment in ("between", "after"):
            assert own[moment] == pytest.approx(held + 2 * whole / world, rel=ROUNDING), moment
        assert own["before update"] == pytest.approx(held + 3 * whole / world, rel=ROUNDING)


@pytest.mark.parametrize("world", [2, 4])
def test_peak_of_backward_falls_from_stage_to_stage(world: int, folder: Path) -> None:
    """Stage 2 holds the gradients of two stages beside its share; stage 3 the parameters of three beside it."""
    one = found(1, folder)[0]["memory"]
    for results in found(world, folder):
        peaks = [results[f"memory, stage {stage}"]["peak"] for stage in (1, 2, 3)]
        saved = one["parameters"] * (1 - 1 / world)
        assert peaks[0] - peaks[1] > saved - 2 * one["largest stage"]
        assert peaks[1] - peaks[2] > saved - 3 * one["largest stage"]


@pytest.mark.parametrize("name", STAGES)
def test_traffic_of_a_step_is_that_of_the_formulas(name: str, folder: Path) -> None:
    for results in found(2, folder):
        own = dict(results[f"sent, {name}"])
        count, numbers = own.pop("buckets")
        assert own == traffic(name, 2, 3, count, 4 * numbers)


def test_replicas_sum_shares_once_a_step(folder: Path) -> None:
    for results in found(4, folder):
        own = dict(results["sent, stage 2"])
        count, numbers = own.pop("buckets")
        assert own.pop("replica all_reduce") == [count, 4 * numbers // 2]
        assert own == traffic("stage 2", 2, 3, count, 4 * numbers)


def traffic(strategy: str, n: int, micro_batches: int, buckets: int, size: int) -> Dict[str, List[int]]:
    """Calls and bytes that a rank gives to them, for `buckets` of float32 parameters of together `size` bytes."""
    once, always = [buckets, size], [micro_batches * buckets, micro_batches * size]
    share = [buckets, size // n]
    exchanges = {
        "dp": {"replica all_reduce": once},
        "stage 1": {"sharding reduce_scatter": once, "sharding all_gather": share},
        "stage 2": {"sharding reduce_scatter": always, "sharding all_gather": share},
        "stage 3": {
            "sharding reduce_scatter": always,
            "sharding all_gather": [2 * micro_batches * number for number in share],
        },
    }
    numbers = {"data all_reduce": [1, 4], "world all_reduce": [2, 24]}  # kept tokens; loss, norm, refusals
    return {**exchanges[strategy], **numbers}
