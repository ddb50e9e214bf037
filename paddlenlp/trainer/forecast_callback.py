"""The plan of a run in its log: what was foreseen, and after some steps what was measured."""

from __future__ import annotations

import time
from typing import Any, List, Optional

from paddlenlp.trainer.callbacks import TrainerCallback
from paddlenlp.trainer.forecast import Forecast, device_like, device_named, forecast, size_text
from paddlenlp.trainer.state import TrainerControl, TrainerState
from paddlenlp.utils.log import logger

STEPS = 20
"""After so many the comparison is logged; the first, in which memory is taken and kernels are chosen, is not timed."""


def foresee(args: Any, config: Any, seq_length: int) -> Optional[Forecast]:
    """Log the plan of the run that begins, before it has a model; None where this process logs nothing, or where there
    is no plan: a run doesn't end for that."""
    if not args.should_log or not args.train_enabled:
        return None
    try:
        found = forecast(config, args, seq_length, *_device(args))
        for line in found.lines():
            logger.info(line)
        return found
    except Exception as error:
        logger.info(f"Plan: none ({type(error).__name__}: {error})")
        return None


def _device(args: Any) -> Any:
    """The entry of the device that Paddle computes on, or of the one that is asked for, and its kind."""
    import paddle

    kind = "gpu" if paddle.get_device().startswith("gpu") else "cpu"
    if args.plan_gpu:
        return device_named(args.plan_gpu), "cpu" if args.plan_gpu == "cpu" else "gpu"
    if kind == "cpu":
        return device_named("cpu"), kind
    cuda = paddle.device.cuda
    return device_like(cuda.get_device_name(), cuda.get_device_properties().total_memory / 2**30), kind


class CompareForecast(TrainerCallback):
    """Says after `STEPS` steps how memory and speed compare with the plan.

    Args:
        found: the plan; None: nothing is compared.
    """

    def __init__(self, found: Optional[Forecast]) -> None:
        self.found = found
        self.steps = 0
        self.seconds = 0.0
        self.start = 0.0

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Forget the memory that was taken before."""
        forget_peak()

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Take the time."""
        self.start = time.perf_counter()

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Compare, once there are enough steps."""
        self.steps += 1
        if self.steps > 1:
            self.seconds += time.perf_counter() - self.start
        if self.steps == STEPS and self.found is not None:
            logger.info(f"After {STEPS} steps: {'; '.join(self.compared(self.found, measured_memory()))}.")

    def compared(self, found: Forecast, memory: float) -> List[str]:
        """Measured and planned, of each figure that was planned.

        Args:
            memory: bytes at most so far.
        """
        planned = found.own.peak.total
        lines = [f"memory {size_text(memory)}, planned {size_text(planned)} ({_apart(memory, planned)})"]
        if found.time is not None and self.seconds > 0:
            speed = found.time.tokens * (self.steps - 1) / self.seconds / found.time.devices
            expected = found.time.tokens_per_second
            lines.append(f"{speed:,.0f} tokens/s for each device, planned {expected:,.0f} ({_apart(speed, expected)})")
        return lines


def measured_memory() -> float:
    """The most bytes that Paddle has had for tensors so far."""
    import paddle

    if paddle.get_device().startswith("gpu"):
        return float(paddle.device.cuda.max_memory_allocated())
    return float(paddle.base.core.host_memory_stat_peak_value("Allocated", 0))


def forget_peak() -> None:
    """Have `measured_memory` begin with what is there now. A GPU's is left alone: the log shows it of the whole run."""
    import paddle

    if not paddle.get_device().startswith("gpu"):
        paddle.base.core.host_memory_stat_reset_peak_value("Allocated", 0)


def _apart(measured: float, planned: float) -> str:
    return f"{measured / planned - 1:+.0%}"
