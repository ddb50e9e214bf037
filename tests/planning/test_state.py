"""Parameters, gradients and optimizer state of every rank: what is planned is what the run holds, to the byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List

import pytest
from layouts import LAYOUTS, LENGTH, LOW_PRECISION, MODELS, SAMPLES
from ranks import run_ranks

from paddlenlp.parallel.mesh import Degrees, derive_mesh
from paddlenlp.planning.abstract import abstract_model
from paddlenlp.planning.layout import Layout
from paddlenlp.planning.rank import Place, RankModel, state_of

ROOT = Path(__file__).resolve().parents[2]
WORK = "tests/planning/work_state.py"
CASES = {
    1: ["one"],
    2: ["dp2", "tp2", "tp2+sp", "pp2", "pp2vpp2", "sharding2 stage1", "sharding2 stage2", "sharding2 stage3", "ep2"],
    4: ["dp2 sharding2 stage2", "tp2+sp sharding2 stage3", "tp2pp2+sp", "pp2 sharding2 stage1"],
}
MODELS_OF = {1: list(MODELS), 2: ["grouped heads", "tied", "biases, fused", "experts"], 4: ["tied", "experts"]}
"""The models of the layouts of so many processes; those that deal experts out have the one with experts."""


def changes_of(layout: str) -> Dict[str, Any]:
    return {**(LAYOUTS[layout].arguments if layout in LAYOUTS else {}), **LOW_PRECISION}


def cases(world: int) -> List[str]:
    found = [f"{name} | {model}" for name in CASES[world] for model in MODELS_OF[world]]
    return [case for case in found if not case.startswith("ep") or case.endswith("experts")]


@pytest.fixture(scope="module")
def held():
    """Case -> what each rank holds."""
    found: Dict[str, Any] = {}
    for world in CASES:
        payload = {case: changes_of(case.split(" | ")[0]) for case in cases(world)}
        ranks = run_ranks(world, f"{WORK}:hold", payload, PYTHONPATH=f"{ROOT}:{ROOT / 'tests/parallel'}")
        found.update({case: [rank[case] for rank in ranks] for case in payload})
    return found


def planned(case: str, place: int, world: int):
    import paddlenlp.transformers as transformers

    name, model = case.split(" | ")
    changes = changes_of(name)
    wanted = {key: value for key, value in changes.items() if key in Degrees.__annotations__}
    mesh = derive_mesh(Degrees(**wanted, sharded="sharding" in changes), world)
    layout = Layout(
        mesh=mesh,
        chunks=changes.get("virtual_pp_degree", 1),
        stage=int(changes.get("sharding", "stage0")[-1]),
        accumulation=SAMPLES // mesh.data,
        seq_length=LENGTH,
        sequence_parallel=changes.get("sequence_parallel", False),
        master_grad=True,
    )
    kind, values = MODELS[model]
    config = getattr(transformers, f"{kind}Config")(**values)
    at = mesh.place(place)
    return layout, state_of(
        RankModel(abstract_model(config), layout, Place(at["pp"], at["tp"], at["sharding"], at["dp"]))
    )


@pytest.mark.parametrize("case", [case for world in CASES for case in cases(world)])
def test_state_is_exact(case, held):
    for place, found in enumerate(held[case]):
        layout, state = planned(case, place, len(held[case]))
        assert state.parameters == found["parameters"]
        assert state.moments == found["moments"]
        # Masters are one tensor for each bucket, of which pieces are views: the gaps between them count too.
        assert 0 <= state.masters - found["masters"] <= 4 * 64 * layout.mesh.sharding * 80
        assert state.final == found["final"]
        if found["summed"] is not None:
            assert state.summed == found["summed"]
