"""The nearest layouts that fit."""

from __future__ import annotations

import pytest

from paddlenlp.parallel.mesh import Mesh
from paddlenlp.planning.hardware import hardware
from paddlenlp.planning.layout import Layout
from paddlenlp.planning.memory import GIB, fullest, plan_memory
from paddlenlp.planning.nearest import nearest
from paddlenlp.planning.speed import step_time
from paddlenlp.planning.work import model_work
from paddlenlp.transformers import AutoConfig
from paddlenlp.utils.errors import UsageError

ASKED = Layout(Mesh(tp=2, sharding=4), stage=1, micro_batch=2, accumulation=8, seq_length=4096)
A100 = hardware("a100-40g")
ROOM = A100.memory_gib * GIB


@pytest.fixture(scope="module")
def config():
    return AutoConfig.from_pretrained("facebook/llama-13b")


@pytest.fixture(scope="module")
def found(config):
    work = model_work(config)
    return nearest(
        config,
        ASKED,
        ROOM,
        lambda layout: fullest(plan_memory(config, layout)).needed,
        lambda layout: step_time(work, layout, A100).seconds,
    )


def test_they_fit_with_the_fewest_changes(config, found):
    assert fullest(plan_memory(config, ASKED)).needed > ROOM
    assert len(found) == 3
    for near in found:
        assert near.bytes == fullest(plan_memory(config, near.layout)).needed <= ROOM
        assert near.layout.mesh.world == 8 and near.layout.global_tokens == ASKED.global_tokens
        assert near.flags and near.layout != ASKED
    counts = [len(near.changes) for near in found]
    assert counts == sorted(counts)
    assert not any(set(a.changes) < set(b.changes) for a in found for b in found)


def test_among_as_many_changes_the_faster_come_first(found):
    for before, after in zip(found, found[1:]):
        assert len(before.changes) < len(after.changes) or before.seconds <= after.seconds


def test_what_cannot_be_cut_is_no_answer(config):
    def memory(layout: Layout) -> float:
        if layout.recompute:
            raise UsageError("not so")
        return 0.0 if layout.mesh.tp == 4 else 2.0

    (first,) = nearest(config, ASKED, 1.0, memory, lambda layout: 1.0, wanted=1)
    assert first.changes == ("tp 2 -> 4",)
    assert first.layout.mesh == Mesh(tp=4, sharding=2) and first.layout.accumulation == 16


def test_nothing_fits(config):
    assert nearest(config, ASKED, 1.0, lambda layout: 2.0, lambda layout: 1.0) == []
