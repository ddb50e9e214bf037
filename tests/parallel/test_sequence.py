"""Ranks that share rows of tokens (sep and context parallelism) against one process."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Dict, List

import numpy as np
import paddle
import pytest
from ranks import run_ranks
from work_sequence import CORES, UNLIKE

from paddlenlp.parallel import Axis, Topology, sequence
from paddlenlp.parallel.mesh import Mesh

EXACT, LOSS, GRADIENT = 1e-6, 1e-6, 1e-5
ROUNDED = 5e-4
"""Of results on the grid of bfloat16: below what leaving out the rounding makes, above one element rounded the other
way."""

WAYS = ("sep", "cp")
RECOMPUTE = [(kind, mode) for kind in ("full", "full_attn", "core_attn") for mode in (False, True)]


def llama_cases(world: int) -> Dict[str, Dict[str, Any]]:
    """Name -> arguments of `work_sequence.llama`."""
    cases: Dict[str, Dict[str, Any]] = {}
    for way in WAYS:
        alone = f"{way}{world}"
        cases[alone] = dict(mode=alone)
        cases[f"{alone}, positions"] = dict(mode=alone, positions=True)
        if world == 2:
            cases.update(
                {f"{alone}, {kind} {mode}": dict(mode=alone, recompute=(kind, mode)) for kind, mode in RECOMPUTE}
            )
            continue
        for both in (f"tp2 {way}2", f"tp2+sp {way}2"):
            cases[both] = dict(mode=both)
            cases[f"{both}, one key head, full"] = dict(mode=both, num_key_value_heads=1, recompute=("full", False))
    return cases


REFUSED = {
    "sep2": {
        "length": r"sep_parallel_degree=2 .* 2 equal parts, .* has 3 tokens: set max_seq_length to a multiple of 2",
        "cache": r"sep_parallel_degree=2 cuts .*: generate with sep_parallel_degree=1",
        "own positions": r"position_ids has shape \[1, 4\].* have 8 tokens",
        "own mask": r"attention_mask has shape \[1, 4\].* have 8 tokens",
        "heads": r"sep_parallel_degree=2 can't share 3 attention heads .*divisor of 3",
    },
    "cp2": {
        "odd length": r"context_parallel_degree=2 .* 4 equal parts, and a row has 2 tokens: .* multiple of 4",
        "cache": r"context_parallel_degree=2 cuts .*: generate with context_parallel_degree=1",
        "dropout": r"attention dropout is 0.1.*set attention_probs_dropout_prob=0",
    },
}


@lru_cache(maxsize=2)
def found(world: int) -> List[Dict[str, Any]]:
    """What each rank of the one launch of so many found."""
    layouts = [f"{way}{world}" for way in WAYS]
    payload = {
        "attention": {layout: list(CORES) for layout in layouts},
        "cost": layouts,
        "llama": llama_cases(world),
        "refused": {layout: list(uses) for layout, uses in REFUSED.items()} if world == 2 else {},
    }
    return run_ranks(world, "tests/parallel/work_sequence.py:everything", payload)


@pytest.mark.parametrize("name", CORES)
@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("way", WAYS)
def test_attention_and_its_gradients_are_those_of_whole_rows(world, way, name):
    limit = ROUNDED if name == "low precision" else EXACT
    for rank, results in enumerate(found(world)):
        assert results["attention"][f"{way}{world}"][name] < limit, f"rank {rank}"


@pytest.mark.parametrize(("world", "name"), [(world, name) for world in (2, 4) for name in llama_cases(world)])
def test_llama_learns_as_one_process(world, name):
    for rank, results in enumerate(found(world)):
        result = results["llama"][name]
        assert result["loss"] < LOSS, f"rank {rank}"
        assert result["gradient"] < GRADIENT, f"rank {rank}: {result['worst']}"


@pytest.mark.parametrize("world", [2, 4])
def test_ring_blocks_are_dealt_out_evenly(world):
    for results in found(world):
        cost = results["cost"][f"cp{world}"]
        assert cost["block_attention"] == cost["block_gradients"] == 2 * world + 1


@pytest.mark.parametrize("world", [2, 4])
def test_bytes_sent_are_those_of_the_formulas(world):
    b, s, h, hkv, d, dv = UNLIKE.values()
    tokens, keys = b * s // world, hkv * (d + dv)
    for results in found(world):
        segment, context = (
            {name: value for name, value in results["cost"][f"{way}{world}"].items() if " " in name} for way in WAYS
        )
        assert segment == {"sep all_to_all": [4, 2 * tokens * (h * d + keys + h * dv) * 4]}
        hops = world - 1
        assert context == {"cp send": [3 * hops, hops * tokens * keys * (4 + 4 + 4)]}


@pytest.mark.parametrize(("layout", "use"), [(layout, use) for layout, uses in REFUSED.items() for use in uses])
def test_bad_use_is_refused(layout, use):
    for results in found(2):
        assert re.search(REFUSED[layout][use], results["refused"][layout][use])


@pytest.fixture
def stand(monkeypatch):
    """stand(cp=2, rank=1): this process is that rank, without any others."""

    def make(rank: int, **degrees: int) -> None:
        axes = {axis: Axis(size, rank) for axis, size in degrees.items()}
        mesh = Topology(Mesh(**degrees), sequence=Axis(max(degrees.values()), rank), **axes)
        monkeypatch.setattr(sequence, "topology", lambda: mesh)

    return make


def test_one_process_holds_everything():
    x = paddle.randn([2, 5, 3])
    assert sequence.own_share(x) is x
    assert sequence.own_positions(5).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [
        (dict(sep=3), [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]),
        (dict(cp=3), [[0, 1, 10, 11], [2, 3, 8, 9], [4, 5, 6, 7]]),
        (dict(cp=2), [[0, 1, 2, 9, 10, 11], [3, 4, 5, 6, 7, 8]]),
    ],
)
def test_who_holds_what(stand, degrees, expected):
    whole = np.arange(2 * 12 * 3).reshape(2, 12, 3)
    for rank, places in enumerate(expected):
        stand(rank, **degrees)
        assert sequence.own_positions(12).tolist() == places
        np.testing.assert_array_equal(sequence.own_share(paddle.to_tensor(whole)).numpy(), whole[:, places])


def test_of_a_micro_batch_ids_and_labels_are_cut_and_the_rest_stays_whole(stand):
    stand(1, sep=2)
    whole = {
        name: paddle.arange(8).reshape([2, 4]) for name in ("input_ids", "labels", "position_ids", "attention_mask")
    }
    own = sequence.own_share_of_batch({**whole, "position_ids": None})
    assert own["input_ids"].tolist() == own["labels"].tolist() == [[2, 3], [6, 7]]
    assert own["attention_mask"] is whole["attention_mask"] and own["position_ids"] is None
