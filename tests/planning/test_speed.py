"""The time of a step: what it is made of, and how it changes with the layout and the device."""

from __future__ import annotations

from dataclasses import replace

import pytest

from paddlenlp.parallel.mesh import Mesh
from paddlenlp.planning.cpu_engine import FUSED, PLAIN, PLAIN_ATTENTION
from paddlenlp.planning.hardware import hardware
from paddlenlp.planning.layout import Layout
from paddlenlp.planning.speed import OURS, PARTS, dealt, step_time
from paddlenlp.planning.work import model_work
from paddlenlp.transformers.auto.configuration import AutoConfig

A100 = hardware("a100-80g")
EVEN = {"tp": 2, "pp": 4}


@pytest.fixture(scope="module")
def llama():
    return model_work(AutoConfig.from_pretrained("facebook/llama-7b"))


@pytest.fixture(scope="module")
def mixtral():
    return model_work(AutoConfig.from_pretrained("mistralai/Mixtral-8x7B-Instruct-v0.1"))


def layout(accumulation=16, seq_length=4096, micro_batch=1, **changes):
    names = ("dp", "pp", "sharding", "sep", "cp", "tp", "ep")
    mesh = Mesh(**{name: changes.pop(name) for name in names if name in changes})
    return Layout(mesh, accumulation=accumulation, seq_length=seq_length, micro_batch=micro_batch, **changes)


def test_one_device_only_computes(llama):
    time = step_time(llama, layout(), A100)
    busy = {"products", "attention", "memory", "update"}
    assert set(time.parts) == set(PARTS)
    assert all((time.parts[part] > 0) == (part in busy) for part in PARTS)
    assert time.tokens == 16 * 4096 and time.devices == 1
    assert 0.4 < time.mfu < 0.7
    assert time.tflops * 1e12 == pytest.approx(time.mfu * 312e12)


def test_time_and_cost_of_a_training(llama):
    time = step_time(llama, layout(tp=8), A100)
    seconds = 1e12 / (time.tokens / time.seconds)
    assert time.days(1e12) == pytest.approx(seconds / 86400)
    assert time.cost(1e12, price=2.0) == pytest.approx(seconds / 3600 * 8 * 2.0)
    assert time.tokens_per_second * 8 == pytest.approx(time.tokens / time.seconds)


def test_the_bubble_is_that_of_the_schedule(llama):
    """(p - 1) / m of the work, and 1 / chunks of it when interleaved (parallel.schedule)."""
    for count in (8, 32):
        time = step_time(llama, layout(count, **EVEN), A100)
        busy = sum(time.parts[part] for part in ("products", "attention", "memory", "tensor"))
        assert time.parts["bubble"] == pytest.approx(busy * 3 / count, rel=0.1)
    whole = step_time(llama, layout(**EVEN), A100)
    halves = step_time(llama, layout(**EVEN, chunks=2), A100)
    assert halves.parts["bubble"] == pytest.approx(whole.parts["bubble"] / 2, rel=0.1)
    assert halves.parts["pipeline"] > whole.parts["pipeline"]
    assert step_time(llama, layout(tp=2), A100).bubble == 0


def test_the_slowest_rank_sets_the_pace(llama):
    """The one with the head."""
    places = dealt(llama, layout(**EVEN))
    assert [place for rank in places for place in rank] == list(range(len(llama.names)))
    one, four = step_time(llama, layout(tp=2), A100), step_time(llama, layout(**EVEN), A100)
    assert one.parts["products"] / 4 < four.parts["products"] < one.parts["products"] / 3


def test_recomputing_costs_what_it_computes_again(llama):
    plain = step_time(llama, layout(), A100)
    again = {kind: step_time(llama, layout(recompute=kind), A100) for kind in ("core_attn", "full_attn", "full")}
    costs = [again[kind].parts["recompute"] for kind in again]
    assert 0 < costs[0] < costs[1] < costs[2]
    computed = sum(plain.parts[part] for part in ("products", "attention", "memory"))
    assert 0.25 < costs[2] / computed < 1 / 3
    half = step_time(llama, layout(recompute="full", interval=2), A100)
    assert half.parts["recompute"] == pytest.approx(costs[2] / 2)
    kept = step_time(llama, layout(recompute="full", kept_layers=tuple(range(32))), A100)
    assert kept.parts["recompute"] == 0
    assert again["full"].flops_per_token == plain.flops_per_token, "not counted in the MFU"


def test_tensor_parallel_exchanges(llama):
    """They grow with the ranks; those of gradients hide behind products."""
    two, eight = (step_time(llama, layout(tp=tp), A100) for tp in (2, 8))
    assert 0 < two.parts["tensor"] < eight.parts["tensor"]
    shown = step_time(llama, layout(tp=8), A100, replace(OURS, tensor_overlap=False))
    assert shown.parts["tensor"] > 1.5 * eight.parts["tensor"]
    sequence = step_time(llama, layout(tp=8, sequence_parallel=True), A100)
    assert sequence.parts["memory"] < eight.parts["memory"]


def test_stages_of_sharding(llama):
    """Stage 1 sends least; stages 2 and 3 pay with each micro batch, unless that hides."""
    loud = replace(OURS, gradient_overlap=False)
    one, two, three = (step_time(llama, layout(sharding=8, stage=stage), A100, loud).parts for stage in (1, 2, 3))
    assert two["gradients"] == pytest.approx(16 * one["gradients"], rel=0.01)
    assert three["parameters"] > one["parameters"] == two["parameters"] > 0
    quiet = step_time(llama, layout(sharding=8, stage=2), A100)
    assert quiet.parts["gradients"] < two["gradients"] / 3
    assert one["update"] < step_time(llama, layout(dp=8), A100).parts["update"]


def test_a_slow_network_shows(llama):
    slow = replace(A100, network_gb_s=A100.network_gb_s / 10)
    inside, across = layout(sharding=8, stage=2), layout(sharding=64, stage=2)
    assert step_time(llama, inside, slow).seconds == step_time(llama, inside, A100).seconds
    assert step_time(llama, across, slow).seconds > 1.2 * step_time(llama, across, A100).seconds


def test_experts(mixtral):
    """Two of eight work on a token; their rows travel where they are dealt out."""
    assert mixtral.multiplied < 0.3 * mixtral.parameters
    alone, dealt_out = (step_time(mixtral, layout(sharding=8, stage=1, ep=ep), A100) for ep in (1, 8))
    assert alone.parts["experts"] == 0 < dealt_out.parts["experts"]
    assert dealt_out.parts["products"] < alone.parts["products"], "fewer and fuller products"


def test_ranks_that_share_sequences(llama):
    long = dict(seq_length=65536, accumulation=4)
    sep, ring = (step_time(llama, layout(tp=1, **{axis: 8}, **long), A100) for axis in ("sep", "cp"))
    assert sep.parts["sequence"] > 0 and ring.parts["sequence"] > 0
    assert ring.parts["attention"] > sep.parts["attention"], "blocks of scores are stored in the ring"
    flash = step_time(llama, layout(cp=8, **long), A100, replace(OURS, flash_ring=True))
    assert flash.parts["attention"] < ring.parts["attention"]


def test_what_flash_attention_does_not_take():
    """Linear biases: scores are stored, unless the engine has a kernel for them."""
    work = model_work(AutoConfig.from_pretrained("baichuan-inc/Baichuan2-13B-Base"))
    stored = step_time(work, layout(), A100)
    assert (
        stored.parts["attention"]
        > 5 * step_time(work, layout(), A100, replace(OURS, flash_biased=True)).parts["attention"]
    )
    asked = step_time(work, layout(kernels=frozenset()), A100)
    assert asked.parts["attention"] == stored.parts["attention"]


@pytest.mark.parametrize("built", [False, True])
def test_a_cpu_computes_only_the_keys_that_are_seen(llama, monkeypatch, built):
    """Its kernels are not those of a GPU: nothing is stored, and no product is too small. External operations are as
    fast as the fastest product."""
    for module in ("cpu_engine", "activations"):
        monkeypatch.setattr(f"paddlenlp.planning.{module}.is_built", lambda name: built)
    hw = hardware("cpu")
    layout32 = layout(accumulation=1, dtype="float32", compute="float32")
    time, plain = (step_time(llama, one, hw) for one in (layout32, layout32.with_(kernels=frozenset())))
    seen = 3.5 / 3 * 6 * llama.pairs / 2 * 4096 * 4096 / hw.peak("float32")
    multiplied = 6 * llama.multiplied * 4096 / hw.peak("float32")
    assert plain.parts["attention"] == pytest.approx(seen / PLAIN_ATTENTION)
    assert plain.parts["products"] == pytest.approx(multiplied / PLAIN, rel=0.01)
    if built:
        assert time.parts["attention"] == pytest.approx(seen / FUSED)
        assert time.parts["products"] == pytest.approx(multiplied / FUSED, rel=0.01)
        assert time.parts["memory"] < plain.parts["memory"]
    else:
        assert time == plain


def test_full_precision_is_slower(llama):
    full = step_time(llama, layout(dtype="float32", compute="float32"), A100)
    assert full.seconds > 8 * step_time(llama, layout(), A100).seconds
    assert full.peak == 19.5e12


def test_losses_are_shares(llama):
    time = step_time(llama, layout(**EVEN, recompute="full"), A100)
    assert all(0 < share < 0.5 for share in time.losses.values())
    assert time.losses["batch"] == time.bubble


def test_layouts_of_arguments():
    """What the planner takes from the arguments of a run."""
    from paddlenlp.trainer.pretraining_args import PreTrainingArguments

    arguments = PreTrainingArguments(
        output_dir="unused",
        per_device_train_batch_size=2,
        gradient_accumulation_steps=8,
        recompute=True,
        recompute_granularity="full_attn",
        no_recompute_layers=[1, 2],
        bf16=True,
        fp16_opt_level="O2",
        use_flash_attention="false",
    )
    found = Layout.from_args(arguments, 4096)
    assert (found.micro_batch, found.accumulation, found.global_tokens) == (2, 8, 2 * 8 * 4096)
    assert (found.dtype, found.compute, found.gradient_bytes) == ("bfloat16", "bfloat16", 2)
    assert [found.recomputes(index) for index in (0, 1, 3)] == ["full_attn", None, "full_attn"]
    assert not found.flash and "use_fused_rms_norm" in found.kernels
