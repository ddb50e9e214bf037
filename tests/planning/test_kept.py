"""What a micro batch leaves for its backward pass: planned within 10 % of what Paddle allocates, in every family."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Optional

import pytest
from families import ROWS
from layouts import LAYOUTS, LOW_PRECISION
from ranks import run_ranks
from work_kept import measure

from paddlenlp.planning.activations import CPU_EXTERNAL

ROOT = Path(__file__).resolve().parents[2]
NEAR = 0.1
GRANULARITIES = ("core_attn", "full_attn", "full")
DROPPED = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}


def check(found: Dict[str, float]) -> None:
    assert abs(found["planned"] / found["allocated"] - 1) <= NEAR, found


def recomputing(granularity: Optional[str]) -> Dict[str, Any]:
    return {} if granularity is None else {"recompute": True, "recompute_granularity": granularity}


@pytest.fixture(autouse=True)
def run_options():
    """Other tests find the settings that they begin with."""
    from paddlenlp.nn import kernels
    from paddlenlp.nn.precision import precision, set_precision
    from paddlenlp.nn.recompute import recompute_policy, set_recompute

    before = precision(), recompute_policy()
    yield
    set_precision(before[0])
    set_recompute(before[1])
    kernels.configure()


@pytest.mark.parametrize("granularity", [None, *GRANULARITIES])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_family(row, granularity):
    check(measure(row.prefix, row.config, recomputing(granularity)))


@pytest.mark.parametrize("name", ["LLaMA", "Mistral", "Bloom", "DeepSeek-V2", "GPT-3"])
def test_operations_of_the_toolkit(name):
    """Where external operations are installed, too, a run may be told not to use them."""
    row = next(row for row in ROWS if row.name == name)
    check(measure(row.prefix, row.config, dict.fromkeys(CPU_EXTERNAL, "false")))


@pytest.mark.parametrize("granularity", [None, "core_attn"])
def test_dropout(granularity):
    row = next(row for row in ROWS if row.name == "GPT-3")
    check(measure(row.prefix, {**row.config, **DROPPED}, recomputing(granularity)))


@pytest.mark.parametrize("granularity", [None, "full"])
@pytest.mark.parametrize("name", ["LLaMA", "Qwen2-MoE"])
def test_emulated_low_precision(name, granularity):
    row = next(row for row in ROWS if row.name == name)
    check(measure(row.prefix, row.config, {**LOW_PRECISION, **recomputing(granularity)}))


CASES: List[str] = [
    f"{layout} | {model}"
    for layout in ("tp2", "tp2+sp", "sep2", "cp2", "tp2+sp recompute")
    for model in ("grouped heads", "experts", "latent attention, experts")
] + ["ep2 | experts"]


@pytest.fixture(scope="module")
def of_ranks():
    payload = {case: LAYOUTS[case.split(" | ")[0]].arguments for case in CASES}
    path = f"{ROOT}:{ROOT / 'tests/parallel'}"
    return run_ranks(2, "tests/planning/work_kept.py:on_ranks", payload, PYTHONPATH=path)


@pytest.mark.parametrize("case", CASES)
def test_layouts(case, of_ranks):
    for rank in of_ranks:
        check(rank[case])
