"""One optimizer step: gradients of the micro-batches, a check, the update, the next learning rate."""

from __future__ import annotations

import math
from typing import Any, Callable, List, NamedTuple

from paddlenlp.trainer.timers import Phases
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.log import logger


class StepResult(NamedTuple):
    """What a step gave: mean loss over its kept tokens, gradient norm before clipping, whether weights were updated."""

    loss: float
    grad_norm: float
    applied: bool


class NonFiniteError(UsageError):
    """The loss or the gradients are infinite or not a number; no weight was changed."""


class TrainStep:
    """Runs steps.

    Args:
        model: has `train_batch(micro_batches, scale) -> mean loss`, which leaves gradients in the parameters, and
            `after_update(applied)`.
        optimizer: see `paddlenlp.trainer.optimizer.Optimizer`.
        lr_scheduler: moved on after every update.
        event: told "on_optimizer_begin" and "on_optimizer_end".
        phases: times the parts.
    """

    def __init__(
        self, model: Any, optimizer: Any, lr_scheduler: Any, event: Callable[[str], None], phases: Phases
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.event = event
        self.phases = phases

    def run(self, number: int, micro_batches: List[Any]) -> StepResult:
        """Train on the micro-batches of step `number` (from 1).

        Raises:
            NonFiniteError: loss or gradients are not finite and no loss scaler can help. The weights, the optimizer's
                state and the learning rate are as before the step.
        """
        with self.phases("forward-backward"):
            # The only wait for the device besides the gradient norm: a bad loss must be seen before the update.
            loss = float(self.model.train_batch(micro_batches, self.optimizer.loss_scale))
        if self.optimizer.scaler is None:
            check_loss(loss, number)
        self.event("on_optimizer_begin")
        with self.phases("optimizer-step"):
            report = self.optimizer.step()
            self.model.after_update(report.applied)
        self.event("on_optimizer_end")
        self.optimizer.clear_grad()
        if report.applied:
            self.lr_scheduler.step()
        else:
            self._overflowed(number, loss, report)
        return StepResult(loss, report.grad_norm, report.applied)

    def _overflowed(self, number: int, loss: float, report: Any) -> None:
        """Say that the update was left out, or give up where a smaller loss scale can't help."""
        scaler = self.optimizer.scaler
        if scaler is None:
            raise NonFiniteError(not_finite(f"gradient norm is {report.grad_norm} (the loss is {loss})", number))
        logger.warning(
            f"optimizer not run, scale_before: {report.loss_scale}, scale_after: {scaler.scale} "
            f"(step {number}, loss {loss})"
        )
        if report.loss_scale <= 1.0:
            raise NonFiniteError(not_finite(f"loss is {loss} with gradients that overflow at loss scale 1", number))


def check_loss(loss: float, number: int) -> None:
    """Refuse a loss that is infinite or not a number.

    Raises:
        NonFiniteError: it is.
    """
    if not math.isfinite(loss):
        raise NonFiniteError(not_finite(f"Loss contains inf or nan values, its value is {loss}", number))


def not_finite(what: str, number: int) -> str:
    """The message for step `number`: what was found, and what to do."""
    return (
        f"Step {number}: {what}. This step changed no weight. Lower learning_rate, set max_grad_norm lower (0 clips "
        "nothing) or lengthen the warm-up; if only this data does it, run again with "
        f"--skip_data_intervals '[[{number}, {number}]]' to pass it over."
    )
