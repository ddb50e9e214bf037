"""What each strategy sends in a step is what docs/parallelism.md says: calls, and bytes of this rank's inputs."""

from __future__ import annotations

from typing import Any, Dict, Tuple

import pytest
from layouts import LAYOUTS, LENGTH, MODELS
from ranks import run_ranks

WORK = "tests/parallel/work_layouts.py"
MODEL = MODELS["grouped heads"]
BYTES, ALIGNMENT = 4, 64
HIDDEN, LAYERS = MODEL.config["hidden_size"], MODEL.config["num_hidden_layers"]
HEADS, KEY_HEADS = MODEL.config["num_attention_heads"], MODEL.config["num_key_value_heads"]
DIM = HIDDEN // HEADS
ROW = LENGTH * HIDDEN * BYTES
"""Hidden states of a micro batch of one sequence."""

# The loss; the squares of the gradient norm with the number of ranks that refuse the update: three float64.
ALWAYS = {"world all_reduce": (2, 24)}
Wire = Dict[str, Tuple[int, int]]


@pytest.fixture(scope="module")
def measured():
    """Layout -> rank -> what it counted."""
    found: Dict[str, Any] = {}
    for world in (2, 4):
        layouts = {name: layout.arguments for name, layout in LAYOUTS.items() if layout.world == world}
        payload = dict(layouts={name: x for name, x in layouts.items() if name in CASES}, model=list(MODEL))
        ranks = run_ranks(world, f"{WORK}:traffic", payload)
        found.update({name: [rank[name] for rank in ranks] for name in payload["layouts"]})
    return found


def tensor(found: Dict[str, Any], place: int) -> Wire:
    micro = found["micro_batches"]
    calls = micro * (4 * LAYERS + 2)
    return {"tp all_reduce": (calls, calls * ROW), "tp all_gather": (micro, found["loss bytes"])}


def sequence(found: Dict[str, Any], place: int) -> Wire:
    micro = found["micro_batches"]
    sums, gathers = micro * (4 * LAYERS + 2), micro * (6 * LAYERS + 2)
    norms = (2 * LAYERS + 1) * max(HIDDEN, ALIGNMENT) * BYTES
    return {
        "tp reduce_scatter": (sums, sums * ROW),
        "tp all_gather": (gathers + micro, gathers * ROW // 2 + found["loss bytes"]),
        "tp all_reduce": (1, norms),
    }


def pipeline(found: Dict[str, Any], place: int) -> Wire:
    micro = found["micro_batches"]
    return {("forward 0>1 send", "backward 1>0 send")[place]: (micro, micro * ROW)}


def interleaved(found: Dict[str, Any], place: int) -> Wire:
    micro = found["micro_batches"]
    once, twice = (micro, micro * ROW), (2 * micro, 2 * micro * ROW)
    if place == 0:
        return {"forward 0>1 send": twice, "backward 0>1 send": once}
    return {"forward 1>0 send": once, "backward 1>0 send": twice}


def segments(found: Dict[str, Any], place: int) -> Wire:
    layers = found["micro_batches"] * LAYERS
    values = (LENGTH // 2) * DIM * (2 * HEADS + 2 * KEY_HEADS)
    return {"sep all_to_all": (4 * layers, 2 * layers * values * BYTES)}


def ring(found: Dict[str, Any], place: int) -> Wire:
    layers = found["micro_batches"] * LAYERS
    values = (LENGTH // 2) * KEY_HEADS * 2 * DIM
    return {"cp send": (3 * layers, layers * values * (BYTES + BYTES + 4))}


CASES = {
    "dp2": ({}, {"replica all_reduce": 1}),
    "tp2": (tensor, {}),
    "tp2+sp": (sequence, {}),
    "pp2": (pipeline, {}),
    "pp2vpp2": (interleaved, {}),
    "sep2": (segments, {"replica all_reduce": 1}),
    "cp2": (ring, {"replica all_reduce": 1}),
    "sharding2 stage1": ({}, {"sharding reduce_scatter": 1, "sharding all_gather": 1 / 2}),
    "sharding2 stage2": ({}, {"sharding reduce_scatter": "m", "sharding all_gather": 1 / 2}),
    "sharding2 stage3": ({}, {"sharding reduce_scatter": "m", "sharding all_gather": "m"}),
    "sharding4 stage1": ({}, {"sharding reduce_scatter": 1, "sharding all_gather": 1 / 4}),
    "dp2 sharding2 stage1": (
        {},
        {"sharding reduce_scatter": 1, "replica all_reduce": 1 / 2, "sharding all_gather": 1 / 2},
    ),
}
"""Layout -> (what follows from the activations, exactly; multiples of the parameters' bytes, but for padding: "m" is
the number of micro batches, and stage 3 gathers 1 / 2 of them twice)."""


@pytest.mark.parametrize("layout", CASES)
def test_bytes_of_a_step(layout, measured):
    exact, multiples = CASES[layout]
    for place, found in enumerate(measured[layout]):
        wire = {name: tuple(counts) for name, counts in found["wire"].items() if name != "data all_reduce"}
        wanted = {**ALWAYS, **(exact(found, place) if callable(exact) else {})}
        assert {name: wire.get(name) for name in wanted} == wanted
        assert set(wire) == {*wanted, *multiples}
        parameters = sum(size for _, size in found["parameters"]) * BYTES
        padding = (len(found["parameters"]) + 16) * ALIGNMENT * 2 * BYTES
        for name, times in multiples.items():
            factor = found["micro_batches"] if times == "m" else times
            extra = wire[name][1] - factor * parameters
            assert 0 <= extra <= factor * padding, (name, wire[name], parameters)
