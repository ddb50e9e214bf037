"""Samples of several documents, whose attention stays within them, in many layouts: they train as on one process."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Dict

import pytest
from layouts import LAYOUTS
from ranks import run_ranks
from work_documents import MODELS, train

CLOSE = 1e-5
GROUPED, FILTER = "grouped heads", "local filter"
CASES = {
    2: [
        *((layout, model) for layout in ("tp2+sp recompute", "sep2", "cp2") for model in MODELS),
        *((layout, model) for layout in ("pp2", "tp2") for model in (GROUPED, "latent attention, predicts ahead")),
        *((layout, GROUPED) for layout in ("pp2 recompute", "sharding2 stage2")),
    ],
    4: [("tp2 sep2", GROUPED), ("tp2+sp cp2", FILTER), ("pp2 cp2", GROUPED)],
}
"""Number of processes -> layouts and models."""


@lru_cache(maxsize=2)
def found(world: int) -> Any:
    """What each rank of the one launch of so many found."""
    return run_ranks(world, "tests/parallel/work_documents.py:many_layouts", CASES[world])


@lru_cache(maxsize=8)
def alone(model: str, bounds: bool = True) -> Dict[str, Any]:
    """On one process."""
    return train({}, model, bounds)


@pytest.mark.parametrize(("world", "layout", "model"), [(world, *case) for world in CASES for case in CASES[world]])
def test_they_train_as_on_one_process(world, layout, model):
    expected = alone(model)
    shares = LAYOUTS[layout].arguments.get("sharding") is None
    for rank, results in enumerate(found(world)):
        for name, values in results[f"{layout} | {model}"].items():
            if name != "evaluation" or shares:  # where data is shared out, each evaluates its own
                assert values == pytest.approx(expected[name], rel=CLOSE), f"rank {rank}: {name}"


@pytest.mark.parametrize("model", MODELS)
def test_the_bounds_matter(model):
    """What the tests above compare is far from what training without bounds gives."""
    with_bounds, without = (alone(model, bounds) for bounds in (True, False))
    assert abs(with_bounds["losses"][-1] - without["losses"][-1]) > 100 * CLOSE
