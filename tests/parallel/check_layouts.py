"""What the layout tests of all sizes share: launching, and comparing with one process."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

from layouts import LOW_PRECISION, LOW_PRECISION_LAYOUTS, MODELS, STEPS, cases, steps_of
from ranks import run_ranks

WORK = "tests/parallel/work_layouts.py"


def once(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, called once for the same arguments even if it fails: a launch takes long."""

    @lru_cache(maxsize=None)  # noqa: UP033
    def outcome(*args: Any) -> Tuple[Any, Any]:
        try:
            return function(*args), None
        except AssertionError as error:
            return None, error

    def result(*args: Any) -> Any:
        found, error = outcome(*args)
        if error is not None:
            raise error
        return found

    return result


@once
def reference(folder: str) -> Dict[str, Any]:
    """Every model on one process."""
    return run_ranks(1, f"{WORK}:one_process", dict(models=list(MODELS), arguments={}, folder=folder))[0]


@once
def launched(world: int, folder: str) -> List[Dict[str, Any]]:
    """Every case of `world` processes: what each rank found."""
    run = [(layout, model, steps_of(model)) for layout, model in cases(world)]
    return run_ranks(world, f"{WORK}:many_layouts", dict(cases=run, arguments={}, folder=folder))


def check(layout: str, model: str, world: int, folder: Path) -> None:
    """The layout trains as one process does."""
    steps = steps_of(model)
    expected = reference(str(folder))[model][str(steps)]
    for rank, found in enumerate(launched(world, str(folder))):
        own, where = found[f"{layout} | {model}"], f"{layout}, {model}, rank {rank}"
        assert relative(own["losses"][0], expected["losses"][0]) < 1e-6, f"{where}: loss of step 1"
        assert relative(own["norms"][0], expected["norms"][0]) < 1e-6, f"{where}: gradient norm of step 1"
        assert gap(own["losses"], expected["losses"]) < 1e-5, f"{where}: losses of {steps} steps"
        assert relative(own["eval"], expected["eval"]) < 1e-5, f"{where}: evaluation"
        assert own["distance"] < 1e-3, f"{where}: weights after {steps} steps"


@once
def low_precision(folder: str) -> Dict[str, Any]:
    """Losses in bf16 of "grouped heads": of one process, of one process with the batch in one piece, of layouts."""
    payload = dict(models=["grouped heads"], arguments=LOW_PRECISION, folder=folder)
    alone = run_ranks(1, f"{WORK}:one_process", payload)[0]["grouped heads"]
    run = [(layout, "grouped heads", STEPS) for layout in LOW_PRECISION_LAYOUTS]
    ranks = run_ranks(2, f"{WORK}:many_layouts", dict(cases=run, arguments=LOW_PRECISION, folder=folder))
    found = {layout: [rank[f"{layout} | grouped heads"]["losses"] for rank in ranks] for layout, _, _ in run}
    return {"alone": alone[str(STEPS)]["losses"], "in one piece": alone["in one piece"]["losses"], **found}


def gap(found: List[float], expected: List[float]) -> float:
    """The greatest relative difference of two curves."""
    return max(relative(own, other) for own, other in zip(found, expected))


def relative(found: float, expected: float) -> float:
    return abs(found - expected) / abs(expected)
