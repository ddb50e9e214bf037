"""Numbers of the log lines: speed, TFLOP/s, MFU, perplexity, memory."""

from __future__ import annotations

import math
import os
import resource
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Dict, Iterator, Optional, Tuple

from paddlenlp.trainer.peak import peak_origin, peak_tflops
from paddlenlp.utils.log import logger

GIB = 1 << 30
MIB = 1 << 20


def perplexity(loss: float) -> float:
    """exp(loss), to 4 digits; infinity where that is beyond a float."""
    try:
        return round(math.exp(loss), 4)
    except OverflowError:
        return math.inf


def speed_metrics(
    split: str,
    start_time: float,
    num_samples: Optional[int] = None,
    num_steps: Optional[int] = None,
    seq_length: Optional[float] = None,
    model_flops: Optional[float] = None,
    world_size: int = 1,
) -> Dict[str, float]:
    """Speed since `start_time` (of `time.time()`), with keys that begin with `split` and an underscore.

    Args:
        num_samples: samples of all ranks in that time.
        num_steps: steps in that time.
        seq_length: tokens of a sample; adds tokens per second and device.
        model_flops: floating-point operations a token costs; with `seq_length`, adds
            `hardware_tflops_per_device` = tokens per second and device * model_flops / 1e12.
        world_size: number of devices.
    """
    runtime = time.time() - start_time
    seconds = max(runtime, 1e-9)
    result = {f"{split}_runtime": round(runtime, 4)}
    if num_samples is not None:
        result[f"{split}_samples_per_second"] = round(num_samples / seconds, 4)
        if seq_length is not None:
            tokens_per_second = num_samples / seconds * seq_length / world_size
            result[f"{split}_tokens_per_second_per_device"] = round(tokens_per_second, 4)
            if model_flops is not None:
                result[f"{split}_hardware_tflops_per_device"] = _digits(tokens_per_second * model_flops / 1e12)
    if num_steps is not None:
        result[f"{split}_steps_per_second"] = round(num_steps / seconds, 4)
    return result


def _digits(value: float) -> float:
    """To 4 significant digits: a small model's figures are far below 1."""
    return float(f"{value:.4g}")


@dataclass
class Interval:
    """What was trained since the last log line; the time of evaluations and checkpoints is not in it."""

    start: float = 0.0
    steps: int = 0
    samples: int = 0
    tokens: int = 0
    waited: float = 0.0

    def restart(self) -> None:
        """Begin the next interval now."""
        self.start, self.steps, self.samples, self.tokens, self.waited = time.time(), 0, 0, 0, 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """In the block the step waits for its data."""
        moment = time.time()
        yield
        self.waited += time.time() - moment

    @property
    def data_wait(self) -> float:
        """Share of the time, up to now, in which steps waited for their data."""
        return _digits(self.waited / max(time.time() - self.start, 1e-9))

    def pause_since(self, moment: float) -> None:
        """Take the time from `moment` (of `time.time()`) until now out of the interval."""
        self.start += time.time() - moment

    def add(self, samples: int, tokens: int) -> None:
        """Count a step: samples and tokens of all ranks."""
        self.steps += 1
        self.samples += samples
        self.tokens += tokens

    @property
    def seq_length(self) -> float:
        """Mean tokens of a sample, 0 before the first."""
        return self.tokens / self.samples if self.samples else 0.0


class Throughput:
    """Turns an `Interval` into the speed entries of a log line.

    Args:
        args: gives the number of devices, the compute dtype and the recompute options.
        model: gives `flops_per_token(seq_length)`, the operations of forward and backward for one token.
    """

    def __init__(self, args: Any, model: Any) -> None:
        self.devices = args.world_size
        self.dtype = args.amp_dtype or "float32"
        self.recomputes_all = args.recompute and args.recompute_granularity == "full"
        self.model = model
        self.shown = args.should_log
        self.peak = 0.0

    def measure(self, interval: Interval) -> Tuple[Dict[str, float], Dict[str, float]]:
        """The `interval_*` entries, and those that stand at the end of the line.

        `interval_hardware_tflops_per_device` counts the second forward pass of full recompute (a third of the model's
        operations on top); the other granularities are counted without theirs. `tflops` = tokens per second and device
        * flops_per_token / 1e12 counts the model's operations only; `mfu` = tflops / peak of the device;
        `data_wait` is the share of the time in which steps waited for data.
        """
        seq_length = interval.seq_length
        flops = self.model.flops_per_token(round(seq_length)) if seq_length else 0.0
        hardware = flops * 4 / 3 if self.recomputes_all else flops
        speed = speed_metrics(
            "interval", interval.start, interval.samples, interval.steps, seq_length, hardware, self.devices
        )
        if not self.shown:  # the peak may have to be measured, which takes the machine for a while
            return speed, {}
        wait = {"data_wait": interval.data_wait}
        tflops = speed["interval_tokens_per_second_per_device"] * flops / 1e12
        if not self.peak:
            self.peak = peak_tflops(self.dtype)
            logger.info(f"mfu below is the share of {_digits(self.peak)} TFLOP/s, {peak_origin(self.dtype)}")
        return speed, {"tflops": _digits(tflops), "mfu": _digits(tflops / self.peak), **wait}


def device_memory() -> Dict[str, float]:
    """Memory of the GPU in GiB; empty on a CPU."""
    import paddle

    if not paddle.get_device().startswith("gpu"):
        return {}
    cuda = paddle.device.cuda
    return {
        "current_memory_allocated": cuda.memory_allocated() / GIB,
        "current_memory_reserved": cuda.memory_reserved() / GIB,
        "max_memory_allocated": cuda.max_memory_allocated() / GIB,
        "max_memory_reserved": cuda.max_memory_reserved() / GIB,
    }


def host_memory() -> Dict[str, int]:
    """Memory of this process in MiB: `cpu_mem_used` now, `cpu_mem_used_peak` at most; on a GPU its peaks too."""
    import paddle

    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    used = _resident_bytes(peak)
    result = {"cpu_mem_used": used // MIB, "cpu_mem_used_peak": max(peak, used) // MIB}
    if paddle.get_device().startswith("gpu"):
        cuda = paddle.device.cuda
        result["gpu_max_memory_allocated"] = cuda.max_memory_allocated() // MIB
        result["gpu_max_memory_reserved"] = cuda.max_memory_reserved() // MIB
    return result


def _resident_bytes(otherwise: int) -> int:
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return otherwise
