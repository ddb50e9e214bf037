"""What each rank sends in a step: what is planned is what the counters of a run count, to the byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict

import pytest
from layouts import LAYOUTS, LENGTH, MODELS, SAMPLES
from ranks import run_ranks

from paddlenlp.parallel.mesh import Degrees, derive_mesh
from paddlenlp.planning.abstract import abstract_model
from paddlenlp.planning.layout import Layout
from paddlenlp.planning.rank import Place
from paddlenlp.planning.traffic import step_traffic

ROOT = Path(__file__).resolve().parents[2]
WORK = "tests/parallel/work_layouts.py:traffic"
CASES = {
    2: ["dp2", "tp2", "tp2+sp", "pp2", "pp2vpp2", "sep2", "cp2", "tp2+sp recompute"]
    + [f"sharding2 stage{stage}" for stage in (1, 2, 3)],
    4: ["sharding4 stage1", "dp2 sharding2 stage2", "tp2pp2", "tp2pp2+sp", "pp2 sharding2 stage1"],
}
NAMES = ("grouped heads", "tied")


@pytest.fixture(scope="module")
def counted():
    """Layout | model -> what each rank counted."""
    found: Dict[str, Any] = {}
    for world, names in CASES.items():
        layouts = {name: LAYOUTS[name].arguments for name in names}
        payload = {"layouts": layouts, "models": {name: list(MODELS[name]) for name in NAMES}}
        path = f"{ROOT}:{ROOT / 'tests/parallel'}"
        ranks = run_ranks(world, "tests/planning/work_state.py:counted", payload, PYTHONPATH=path)
        found.update({case: [rank[case] for rank in ranks] for case in ranks[0]})
    return found


def layout_of(changes: Dict[str, Any], world: int) -> Layout:
    wanted = {key: value for key, value in changes.items() if key in Degrees.__annotations__}
    mesh = derive_mesh(Degrees(**wanted, sharded="sharding" in changes), world)
    return Layout(
        mesh=mesh,
        chunks=changes.get("virtual_pp_degree", 1),
        stage=int(changes.get("sharding", "stage0")[-1]),
        accumulation=SAMPLES // mesh.data,
        seq_length=LENGTH,
        sequence_parallel=changes.get("sequence_parallel", False),
        recompute=changes.get("recompute_granularity"),
        dtype="float32",
        compute="float32",
    )


@pytest.mark.parametrize("model", NAMES)
@pytest.mark.parametrize("layout", [name for names in CASES.values() for name in names])
def test_traffic_of_a_step(layout, model, counted):
    import paddlenlp.transformers as transformers

    family, values = MODELS[model]
    whole = abstract_model(getattr(transformers, f"{family}Config")(**values))
    found = counted[f"{layout} | {model}"]
    spread = layout_of(LAYOUTS[layout].arguments, len(found))
    for rank, counts in enumerate(found):
        at = spread.mesh.place(rank)
        planned = step_traffic(whole, spread, Place(at["pp"], at["tp"], at["sharding"], at["dp"]), 4)
        wire = {_without_ranks(key): tuple(value) for key, value in counts["wire"].items()}
        if spread.mesh.tp > 1 and "tp all_gather" in wire:  # tokens that don't count in the loss are not looked at
            calls, size = wire["tp all_gather"]
            missing = 12 * spread.accumulation * spread.tokens - counts["loss bytes"] if counts["has head"] else 0
            wire["tp all_gather"] = (calls, size + missing)
        assert planned == wire


def _without_ranks(key: str) -> str:
    words = key.split(" ")
    return " ".join([words[0], words[-1]])
