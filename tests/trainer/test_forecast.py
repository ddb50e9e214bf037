"""The plan in the log of a run: before it, and compared after some steps."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

from paddlenlp.planning.hardware import hardware
from paddlenlp.trainer import PreTrainingArguments, forecast_callback
from paddlenlp.trainer.forecast import device_like, device_named, forecast, require_fit, size_text
from paddlenlp.trainer.forecast_callback import STEPS, CompareForecast, foresee
from paddlenlp.transformers import AutoConfig
from paddlenlp.transformers.known_models import known_config
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.log import logger


@pytest.fixture
def said():
    """What the log says."""
    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)


@pytest.fixture(scope="module")
def seven():
    return AutoConfig.from_dict(known_config("facebook/llama-7b"))


def arguments(**changes):
    flags = {"bf16": True, "fp16_opt_level": "O2", "do_train": True, "max_steps": 1, **changes}
    return PreTrainingArguments(output_dir="x", per_device_train_batch_size=1, **flags)


def eight(monkeypatch, **changes):
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "8")
    return arguments(tensor_parallel_degree=2, sharding="stage2", **changes)


def test_a_run_that_fits_and_one_that_does_not(monkeypatch, seven):
    found = forecast(seven, eight(monkeypatch), 4096, hardware("a100-80g"))
    assert found.fits and "fits into the 79.3 GiB of NVIDIA A100-SXM4-80GB" in found.lines()[0]
    assert len(found.lines()) == 3 and "tokens/s for each device (MFU " in found.lines()[2]
    require_fit(found)
    small = found._replace(hardware=hardware("rtx4090-24g"))
    assert small.fits is False and "does not fit into" in small.lines()[0]
    with pytest.raises(UsageError, match=r"more than NVIDIA GeForce RTX 4090 has \(23.6\).*auto_micro_batch"):
        require_fit(small)


def test_without_a_device_there_is_memory_only(monkeypatch, seven):
    found = forecast(seven, eight(monkeypatch), 4096)
    assert found.fits is None and found.time is None and len(found.lines()) == 2
    require_fit(found)


def test_a_rank_knows_its_own_memory_and_the_fullest(monkeypatch, seven):
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "4")
    needs = []
    for rank in range(4):
        monkeypatch.setenv("PADDLE_TRAINER_ID", str(rank))
        found = forecast(seven, arguments(pipeline_parallel_degree=4, gradient_accumulation_steps=8), 2048)
        needs.append(found.own.needed)
        assert found.own.place.pp == rank
    assert max(needs) == found.memory.needed and len(set(needs)) > 1


@pytest.mark.parametrize(
    ("name", "memory", "entry"),
    [
        ("NVIDIA A100-SXM4-80GB", 79.2, "a100-80g"),
        ("NVIDIA A100-PCIE-40GB", 39.4, "a100-40g"),
        ("NVIDIA H100 80GB HBM3", 79.1, "h100-80g"),
        ("NVIDIA H200", 140.4, "h200-141g"),
        ("NVIDIA GeForce RTX 4090", 23.6, "rtx4090-24g"),
        ("Tesla T4", 14.6, None),
        ("NVIDIA H100 NVL", 93.1, None),
    ],
)
def test_devices_are_known_by_name_and_memory(name, memory, entry):
    found = device_like(name, memory)
    assert found == (None if entry is None else device_named(entry))


def test_the_plan_is_logged_where_a_run_begins(said, seven, monkeypatch):
    found = foresee(arguments(plan_gpu="a100-80g"), seven, 2048)
    assert found is not None and [line[:5] for line in said] == ["Plan:"] * 3
    del said[:]
    assert foresee(arguments(do_train=False, max_steps=-1), seven, 2048) is None and not said
    monkeypatch.setenv("PADDLE_RANK_IN_NODE", "1")
    assert foresee(arguments(), seven, 2048) is None and not said


def test_a_run_does_not_end_for_want_of_a_plan(said, seven, monkeypatch):
    assert foresee(arguments(plan_gpu="abacus"), seven, 2048) is None
    assert said[0].startswith("Plan: none (UsageError: hardware 'abacus' is not known")
    monkeypatch.setattr(forecast_callback, "forecast", lambda *_: 1 / 0)
    assert foresee(arguments(), seven, 2048) is None
    assert said[1] == "Plan: none (ZeroDivisionError: division by zero)"


def test_the_comparison_comes_once_after_enough_steps(said, monkeypatch):
    time = SimpleNamespace(tokens=1000, devices=2, tokens_per_second=50.0)
    own = SimpleNamespace(peak=SimpleNamespace(total=4 << 30))
    clock = iter(range(10_000))
    monkeypatch.setattr(forecast_callback.time, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(forecast_callback, "measured_memory", lambda: 5 << 30)
    callback = CompareForecast(SimpleNamespace(own=own, time=time))
    for _ in range(2 * STEPS):
        callback.on_step_begin(None, None, None)
        callback.on_step_end(None, None, None)
    assert said == [
        "After 20 steps: memory 5.00 GiB, planned 4.00 GiB (+25%); 500 tokens/s for each device, planned 50 (+900%)."
    ]
    callback = CompareForecast(None)
    for _ in range(STEPS):
        callback.on_step_begin(None, None, None)
        callback.on_step_end(None, None, None)
    assert len(said) == 1


def test_sizes():
    assert [size_text(size) for size in (3 << 20, 1 << 30, 52.5 * (1 << 30))] == ["3.0 MiB", "1.00 GiB", "52.50 GiB"]
