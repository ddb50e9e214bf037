"""Runs with bad numbers in one place, on one rank of a job or in a process of its own."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Dict, List, Optional

import numpy as np
from work_trainer import tiny_run

from tests.trainer.bad_numbers import BadGradient, BadLoss, BadWeight

BAD_STEP, MARK, MARKED = 3, 63, 22
"""Sample 22, which has the only token 63, is in the second micro-batch of step 3; of two data ranks the second reads
it."""


def bad_data(model: Any) -> None:
    """Token 63 has an embedding that is not a number, wherever it comes."""

    def spoil(layer: Any, given: Any, out: Any) -> Any:
        marked = (given[0].reshape([-1]) == MARK).astype(out.dtype).unsqueeze(-1)
        return out + marked / (1 - marked) * 0.0

    for layer in model.sublayers():
        if type(layer).__name__ == "Embedding":
            layer.register_forward_post_hook(spoil)


def inject(place: str, model: Any, is_last_rank: bool, sharded: bool) -> None:
    """Bad numbers at a place; all but those in the loss and in the data are on the last rank alone, or where the weight
    is."""
    if place == "loss":
        BadLoss(model, BAD_STEP)
    elif place == "data":
        bad_data(model)
    elif place == "weight" and sharded:
        BadWeight(model, BAD_STEP)
    elif place and is_last_rank:
        {"one rank": BadLoss, "gradient": BadGradient, "weight": BadWeight}[place](model, BAD_STEP)


def marked_data(run: Any) -> Any:
    """Random tokens, of which MARK comes in one sample."""
    data = run.tokens(64)
    data.samples %= MARK
    data.samples[MARKED, 3] = MARK
    return data


def state_of(trainer: Any) -> str:
    """SHA-256 of what this rank holds: parameters, what the optimizer updates, its state."""
    digest = hashlib.sha256()
    tensors = [param for _, param in sorted(trainer.model.named_parameters())]
    for piece in trainer.optimizer.pieces:
        tensors += [piece.weight, *trainer.optimizer.states(piece).values()]
    for tensor in tensors:
        digest.update(np.ascontiguousarray(tensor.astype("float32").numpy()).tobytes())
    return digest.hexdigest()


def trained(folder: str, place: str = "", steps: int = 5, **changes: Any) -> Dict[str, Any]:
    """A run, with bad numbers at `place`, and what is left of it on this rank."""
    from paddlenlp.parallel import init_topology, topology

    run = tiny_run(folder)
    run.dropout = 0.1
    layout = {"gradient_accumulation_steps": 2, "max_steps": steps, "save_steps": 2, **changes}
    init_topology(run.args(**layout))
    trainer = run.trainer(data=marked_data(run), **layout)
    last = topology().world.rank == topology().world.size - 1
    inject(place, trainer.model, last, "sharding" in changes)
    error: Optional[str] = None
    try:
        trainer.train(resume_from_checkpoint=False)
    except ValueError as stop:
        error = str(stop)
    history = [(r["global_step"], r["loss"], r.get("grad_norm")) for r in trainer.state.log_history if "loss" in r]
    path = Path(folder, "bad_steps.jsonl")
    records = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {"state": state_of(trainer), "history": history, "records": records, "error": error}


def replayed(folder: str, catch_up: bool = True, **layout: Any) -> Dict[str, Any]:
    """The bad step of the data that a run in `folder` recorded, once more."""
    from paddlenlp.parallel import init_topology
    from paddlenlp.trainer.bad_steps import RECORDS, read_records
    from paddlenlp.trainer.replay import replay

    run = tiny_run(folder)
    run.dropout = 0.1
    layout = {"gradient_accumulation_steps": 2, "max_steps": 5, "save_steps": 2, **layout}
    init_topology(run.args(**layout))
    trainer = run.trainer(data=marked_data(run), **layout)
    bad_data(trainer.model)
    (record,) = read_records(Path(folder, RECORDS))
    found = replay(trainer, record, None, catch_up)
    assert found.result.finding is not None and not found.result.applied
    return {"checkpoint": str(found.checkpoint), "to": found.trained_to, **found.result.finding._asdict()}


def matrix(payload: Dict[str, Any]) -> List[Dict[str, Any]]:
    """For each layout: the runs with bad numbers at each place, and the one that passes the step over from the start;
    all of it on this rank. Data and weights that are bad stay so: the runs go back for them."""
    found = []
    for number, layout in enumerate(payload["layouts"]):
        folder = Path(payload["folder"], str(number))
        skip = {"skip_data_intervals": [[BAD_STEP, BAD_STEP]]}
        runs = {"": trained(str(folder / "reference"), **skip, **layout)}
        for place in ("loss", "one rank", "gradient", "weight", "data"):
            policy = "rollback" if place in ("weight", "data") else "skip"
            runs[place] = trained(str(folder / place), place, bad_step_policy=policy, **layout)
        runs["replayed"] = replayed(str(folder / "data"), **layout)
        found.append(runs)
    return found
