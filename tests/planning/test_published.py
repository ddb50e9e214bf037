"""What the planner says of published runs, with one set of constants: the truth the planner is held to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paddlenlp.planning.published import groups, published

CONFIGS = Path(__file__).resolve().parents[2] / "llm/config"
TABLE = published("paddlenlp")
ELSEWHERE = [run for group in groups() for run in published(group) if group not in ("paddlenlp", "deepseek-v3")]


def off(predicted: float, measured: float) -> float:
    return predicted / measured - 1


def test_the_table_has_all_eleven_rows():
    assert len({run.name for run in TABLE}) == 11
    assert len({run.engine for run in TABLE}) == 1, "one set of constants"
    assert {run.hardware for run in TABLE} == {"a100-80g"}


@pytest.mark.parametrize("run", TABLE, ids=lambda run: run.name)
def test_speed_of_the_table(run):
    assert abs(off(run.predicted().tokens_per_second, run.tokens_per_second)) < 0.05


@pytest.mark.parametrize("run", TABLE, ids=lambda run: run.name)
def test_memory_of_the_table(run):
    assert abs(off(run.predicted_mb(), run.memory_mb)) < 0.10


@pytest.mark.parametrize("run", ELSEWHERE, ids=lambda run: f"{run.group} {run.name}")
def test_speed_of_other_published_runs(run):
    assert abs(off(run.predicted().tokens_per_second, run.tokens_per_second)) < 0.15


@pytest.mark.parametrize("group", [group for group in groups() if group != "deepseek-v3"])
def test_no_source_is_off_to_one_side(group):
    errors = [off(run.predicted().tokens_per_second, run.tokens_per_second) for run in published(group)]
    assert abs(sum(errors) / len(errors)) < 0.06


def test_deepseek_ran_in_eight_bits_and_is_predicted_in_sixteen():
    """Slower than what was published, by less than a quarter."""
    (run,) = published("deepseek-v3")
    assert -0.25 < off(run.predicted().tokens_per_second, run.tokens_per_second) < 0


def test_configurations_of_the_table_are_those_that_ran():
    """The shipped argument files say the same layouts."""
    for run in TABLE:
        values = json.loads((CONFIGS / run.file).read_text(encoding="utf-8"))
        layout = run.layout
        assert values["per_device_train_batch_size"] == layout.micro_batch
        assert values["gradient_accumulation_steps"] == layout.accumulation
        assert values["tensor_parallel_degree"] == layout.mesh.tp
        assert values["sharding_parallel_degree"] == layout.mesh.sharding
        assert values["sharding"] == f"stage{layout.stage}"
        assert values["max_seq_length"] == layout.seq_length
        assert values["recompute"] == (layout.recompute is not None)
        assert values["model_name_or_path"] == run.name
