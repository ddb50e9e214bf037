"""The search for layouts: what it finds fits, keeps the global batch, and is not beaten by what one tries by hand."""

from __future__ import annotations

import pytest

from paddlenlp.parallel.mesh import Mesh
from paddlenlp.planning.abstract import abstract_model
from paddlenlp.planning.hardware import hardware
from paddlenlp.planning.layout import Layout
from paddlenlp.planning.memory import fullest, plan_memory
from paddlenlp.planning.scale import CASES, cases
from paddlenlp.planning.search import Wanted, layouts, search, state_bytes
from paddlenlp.planning.speed import step_time
from paddlenlp.planning.work import model_work
from paddlenlp.transformers.auto.configuration import AutoConfig
from paddlenlp.utils.errors import UsageError

A100, H100 = hardware("a100-80g"), hardware("h100-80g")
WANTED = Wanted(devices=8, global_batch=64, seq_length=4096, best=3)


@pytest.fixture(scope="module")
def config():
    return AutoConfig.from_pretrained("facebook/llama-7b")


@pytest.fixture(scope="module")
def found(config):
    return search(config, A100, WANTED)


def test_what_is_found_fits_and_is_sorted(config, found):
    assert [one.time.seconds for one in found] == sorted(one.time.seconds for one in found)
    assert len({one.layout.mesh for one in found}) == len(found) == 3
    for one in found:
        layout = one.layout
        assert one.bytes == fullest(plan_memory(config, layout)).needed < A100.memory_gib * 2**30
        assert layout.mesh.world == 8 and layout.global_tokens == 64 * 4096


def test_it_is_no_worse_than_the_layout_of_the_table(config, found):
    """That of PaddleNLP's table, which fits."""
    table = Layout(Mesh(sharding=4, tp=2), stage=2, micro_batch=2, accumulation=8, seq_length=4096)
    assert fullest(plan_memory(config, table)).needed < A100.memory_gib * 2**30
    assert found[0].time.seconds <= step_time(model_work(config), table, A100).seconds


def test_less_memory_costs_speed(config, found):
    small = search(config, hardware("a100-40g"), WANTED)
    assert small[0].time.seconds > found[0].time.seconds
    assert small[0].bytes < 40 * 2**30


def test_layouts_that_are_tried(config):
    work = model_work(config)
    tried = list(layouts(config, work, A100, WANTED))
    assert len(tried) == len(set(tried)) > 200
    for layout in tried:
        assert config.num_attention_heads % layout.mesh.tp == 0 and layout.mesh.world == 8
        assert layout.chunks == 1 or layout.accumulation % layout.mesh.pp == 0
        assert layout.mesh.pp * layout.chunks <= config.num_hidden_layers


def test_long_sequences_are_shared_and_experts_dealt_out():
    config = AutoConfig.from_pretrained("mistralai/Mixtral-8x7B-Instruct-v0.1")
    wanted = Wanted(devices=16, global_batch=16, seq_length=32768)
    tried = list(layouts(config, model_work(config), H100, wanted))
    assert {layout.mesh.cp for layout in tried} >= {1, 2, 4}
    assert {layout.mesh.ep for layout in tried} >= {1, 2, 4, 8}


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_quick_count_of_state_is_near_the_exact_one(config, stage):
    layout = Layout(Mesh(sharding=4, tp=2), stage=stage, accumulation=8)
    state = plan_memory(abstract_model(config), layout)[0].state
    exact = state.parameters + state.summed + state.masters + state.moments
    assert state_bytes(model_work(config), layout) == pytest.approx(exact, rel=0.07)


def test_nothing_fits(config):
    with pytest.raises(UsageError, match="2 devices of 24 GiB.*more devices"):
        search(config, hardware("rtx4090-24g"), Wanted(2, 16, 4096))


def test_a_batch_that_cannot_be_shared_out(config):
    with pytest.raises(UsageError, match="global batch"):
        search(config, A100, Wanted(devices=1024, global_batch=3, seq_length=4096))


def test_large_models_on_many_devices():
    """The layouts of scale.json are of the cases, fit, and are the best that the search finds."""
    table = cases()
    assert [(case.model, case.layout.mesh.world) for case in table] == [
        (model, count) for model, _, _, _, counts in CASES for count in counts
    ]
    for case in table:
        assert case.gib() < hardware(case.hardware).memory_gib, case
    model, device, length, batch, counts = CASES[0]
    (best,) = search(AutoConfig.from_pretrained(model), hardware(device), Wanted(counts[3], batch, length, best=1))
    assert best.layout == table[3].layout
