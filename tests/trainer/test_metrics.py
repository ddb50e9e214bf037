"""The numbers of the log lines against their formulas."""

from __future__ import annotations

import math
import time

import pytest

from paddlenlp.trainer import metrics, peak
from paddlenlp.trainer.metrics import Interval, Throughput, perplexity, speed_metrics


@pytest.fixture
def clock(monkeypatch):
    """`time.time()` as a number in a list that the test moves."""
    now = [1000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    return now


def test_perplexity():
    assert perplexity(2.0) == round(math.exp(2.0), 4)
    assert perplexity(0.0) == 1.0 and perplexity(1000.0) == math.inf and math.isnan(perplexity(math.nan))


def test_speed_metrics(clock):
    clock[0] += 4.0
    assert speed_metrics("interval", 1000.0, 32, 8, seq_length=100, model_flops=5e9, world_size=2) == {
        "interval_runtime": 4.0,
        "interval_samples_per_second": 8.0,
        "interval_tokens_per_second_per_device": 400.0,
        "interval_hardware_tflops_per_device": 2.0,
        "interval_steps_per_second": 2.0,
    }
    assert speed_metrics("train", 1000.0) == {"train_runtime": 4.0}
    assert speed_metrics("train", clock[0], 1, 1)["train_runtime"] == 0.0


class Model:
    def flops_per_token(self, seq_length):
        return 1e9 * seq_length


@pytest.fixture
def fixed_peak(monkeypatch):
    monkeypatch.setattr(metrics, "peak_tflops", lambda dtype: {"float32": 10.0, "bfloat16": 100.0}[dtype])


def measured(args, clock):
    interval = Interval()
    interval.restart()
    interval.add(4, 200)
    interval.add(4, 200)
    clock[0] += 2.0
    return Throughput(args, Model()).measure(interval)


def test_the_share_of_waiting_for_data(clock):
    interval = Interval()
    interval.restart()
    with interval.waiting():
        clock[0] += 1.0
    clock[0] += 3.0
    assert interval.data_wait == 0.25
    interval.restart()
    clock[0] += 1.0
    assert interval.data_wait == 0.0


def test_tflops_and_mfu(tiny, clock, fixed_peak):
    """400 tokens in 2 s, 50 to a sample: 200 tokens/s * 50e9 operations = 10 TFLOP/s."""
    speed, tail = measured(tiny.args(), clock)
    assert speed["interval_samples_per_second"] == 4.0 and speed["interval_steps_per_second"] == 1.0
    assert speed["interval_hardware_tflops_per_device"] == 10.0
    assert tail == {"tflops": 10.0, "mfu": 1.0, "data_wait": 0.0}


def test_mfu_takes_the_peak_of_the_compute_dtype(tiny, clock, fixed_peak):
    assert measured(tiny.args(bf16=True), clock)[1] == {"tflops": 10.0, "mfu": 0.1, "data_wait": 0.0}


def test_the_log_says_once_what_mfu_is_a_share_of(tiny, clock, fixed_peak, log_lines):
    throughput, interval = Throughput(tiny.args(), Model()), Interval()
    for _ in range(2):
        interval.restart()
        interval.add(4, 200)
        throughput.measure(interval)
    (line,) = [line for line in log_lines() if "mfu" in line]
    assert line.startswith(
        "mfu below is the share of 10.0 TFLOP/s, the fastest float32 matrix product measured here, on"
    )


def test_the_origin_of_the_peak(monkeypatch):
    import paddle

    monkeypatch.setattr(paddle, "get_device", lambda: "gpu:0")
    monkeypatch.setattr(paddle.device.cuda, "get_device_name", lambda: "NVIDIA A100-SXM4-80GB")
    assert peak.peak_origin("bfloat16") == "the data sheet's for NVIDIA A100-SXM4-80GB"
    monkeypatch.setattr(paddle.device.cuda, "get_device_name", lambda: "NVIDIA T4")
    assert peak.peak_origin("bfloat16") == "the fastest product measured on NVIDIA T4"


def test_full_recompute_is_hardware_work_but_not_model_work(tiny, clock, fixed_peak):
    speed, tail = measured(tiny.args(recompute=True), clock)
    assert speed["interval_hardware_tflops_per_device"] == 13.33 and tail["tflops"] == 10.0
    speed, tail = measured(tiny.args(recompute=True, recompute_granularity="core_attn"), clock)
    assert speed["interval_hardware_tflops_per_device"] == 10.0


def test_an_interval_without_training_keeps_its_entries(tiny, clock, fixed_peak):
    trained, _ = measured(tiny.args(), clock)
    interval = Interval()
    interval.restart()
    speed, tail = Throughput(tiny.args(), Model()).measure(interval)
    assert list(speed) == list(trained) and set(speed.values()) == {0.0}
    assert tail == {"tflops": 0.0, "mfu": 0.0, "data_wait": 0.0}


def test_pauses_are_not_in_the_interval(clock):
    interval = Interval()
    interval.restart()
    clock[0] += 5.0
    interval.pause_since(1002.0)
    clock[0] += 1.0
    assert clock[0] - interval.start == 3.0


def test_evaluation_and_saving_are_not_in_the_interval(tiny, clock):
    trainer = tiny.trainer(do_eval=True, eval_steps=1, save_steps=1, max_steps=4, logging_steps=2)
    evaluate, save = trainer.evaluate, trainer.keeper.save

    def slow_evaluate():
        clock[0] += 100.0
        return evaluate()

    def slow_save(*args):
        clock[0] += 100.0
        return save(*args)

    trainer.evaluate, trainer.keeper.save = slow_evaluate, slow_save
    step = trainer.model.train_batch

    def timed_step(*args):
        clock[0] += 1.0
        return step(*args)

    trainer.model.train_batch = timed_step
    trainer.train()
    assert [r["interval_runtime"] for r in trainer.state.log_history if "loss" in r] == [2.0, 2.0]


@pytest.mark.parametrize(
    ("name", "bfloat16", "float32"),
    [
        ("NVIDIA A100-SXM4-80GB", 312.0, 19.5),
        ("NVIDIA A800 80GB PCIe", 312.0, 19.5),
        ("NVIDIA H100 80GB HBM3", 989.4, 66.9),
        ("NVIDIA H100 PCIe", 756.0, 51.0),
        ("NVIDIA H800", 989.4, 66.9),
        ("NVIDIA H200", 989.4, 66.9),
        ("NVIDIA GeForce RTX 4090", 165.2, 82.6),
        ("NVIDIA GeForce RTX 4090 D", 147.1, 73.5),
    ],
)
def test_table_of_peaks(name, bfloat16, float32):
    assert peak.table_peak(name, "bfloat16") == bfloat16 == peak.table_peak(name, "float16")
    assert peak.table_peak(name, "float32") == float32


def test_unknown_devices_are_not_in_the_table():
    assert peak.table_peak("NVIDIA T4", "float16") is None


def test_the_cpu_peak_is_measured_once_and_draws_no_random_numbers(monkeypatch):
    from paddlenlp.trainer.rng import rng_state

    calls = []
    real = peak.measured_tflops
    monkeypatch.setattr(peak, "measured_tflops", lambda dtype: calls.append(dtype) or real(dtype))
    peak.peak_tflops.cache_clear()
    before = rng_state()
    assert 1e-4 < peak.peak_tflops("bfloat16") < 1e3
    assert peak.peak_tflops("bfloat16") == peak.peak_tflops("bfloat16")
    assert calls == ["float32"] and rng_state() == before
    peak.peak_tflops.cache_clear()


def test_device_memory_is_only_for_gpus():
    assert metrics.device_memory() == {}
