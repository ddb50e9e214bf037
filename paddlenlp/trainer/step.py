"""One optimizer step: gradients of the micro-batches, a check, the update, the next learning rate.

A step is bad if its loss or gradients are not finite, or if the loss is worse than the run allows. All ranks decide
alike, before the update: a bad step leaves weights, moments, masters, learning rate and random numbers bit for bit as
they were. What follows from it is settled by `bad_steps`.
"""

from __future__ import annotations

import math
from typing import Any, Callable, List, NamedTuple, Optional

from paddlenlp.parallel import signals
from paddlenlp.trainer.bad_tensors import Finding, examine
from paddlenlp.trainer.rng import remember_rng
from paddlenlp.trainer.timers import Phases
from paddlenlp.utils.log import logger


class StepResult(NamedTuple):
    """What a step gave.

    Attributes:
        loss: mean over the kept tokens of the step.
        grad_norm: L2 norm of the gradients before clipping.
        applied: whether weights were updated.
        finding: what is wrong with a bad step.
    """

    loss: float
    grad_norm: float
    applied: bool
    finding: Optional[Finding] = None


def check_loss(loss: float) -> str:
    """What is wrong with a loss that is not finite, else ""."""
    return "" if math.isfinite(loss) else f"Loss contains inf or nan values, its value is {loss}"


class TrainStep:
    """Runs steps.

    Args:
        model: has `train_batch(micro_batches, scale, between) -> mean loss`, which leaves gradients in the parameters,
            and `after_update(applied)`.
        optimizer: see `paddlenlp.trainer.optimizer.Optimizer`.
        lr_scheduler: moved on after every update.
        event: told "on_optimizer_begin" and "on_optimizer_end".
        phases: times the parts.
        judge: says what is wrong with a loss; "" if nothing.
    """

    def __init__(
        self,
        model: Any,
        optimizer: Any,
        lr_scheduler: Any,
        event: Callable[[str], None],
        phases: Phases,
        judge: Callable[[float], str] = check_loss,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.event = event
        self.phases = phases
        self.judge = judge

    def run(self, number: int, micro_batches: List[Any], between: Callable[[], object] = lambda: None) -> StepResult:
        """Train on the micro-batches of step `number` (from 1).

        Args:
            between: see `CausalLM.train_batch`; if it raises `signals.Agreed`, the step has not been: neither
                gradients nor random numbers drawn are left of it.

        Returns:
            What came of it; with a `finding`, on all ranks alike, if the step is bad.
        """
        return self._run(number, micro_batches, between, only_look=False)

    def look(self, number: int, micro_batches: List[Any]) -> StepResult:
        """The same without ever updating: what loss and gradients are, and whether something is wrong with them."""
        return self._run(number, micro_batches, lambda: None, only_look=True)

    def _run(self, number: int, micro_batches: List[Any], between: Callable[[], object], only_look: bool) -> StepResult:
        put_rng_back = remember_rng()
        try:
            with self.phases("forward-backward"):
                # The only wait for the device besides the gradient norm: a bad loss must be seen before the update.
                loss = float(self.model.train_batch(micro_batches, self.optimizer.loss_scale, between))
        except signals.Agreed:
            self.optimizer.clear_grad()
            self.model.after_update(False)
            put_rng_back()
            raise
        problem = self.judge(loss)
        self.event("on_optimizer_begin")
        with self.phases("optimizer-step"):
            report = self.optimizer.step(refuse=only_look or bool(problem))
            self.model.after_update(report.applied)
        self.event("on_optimizer_end")
        finding = None
        if report.applied:
            self.lr_scheduler.step()
        elif not self._overflowed(number, loss, report):
            problem = problem or self._norm_problem(loss, report)
            finding = examine(self.model, problem, loss, micro_batches)
            put_rng_back()
        self.optimizer.clear_grad()
        return StepResult(loss, report.grad_norm, report.applied, finding if finding and finding.reason else None)

    def _overflowed(self, number: int, loss: float, report: Any) -> bool:
        """Whether the update was left out for gradients that a smaller loss scale can keep finite; the log says so."""
        scaler = self.optimizer.scaler
        if scaler is None or math.isfinite(report.grad_norm) or report.loss_scale <= 1.0:
            return False
        logger.warning(
            f"optimizer not run, scale_before: {report.loss_scale}, scale_after: {scaler.scale} "
            f"(step {number}, loss {loss})"
        )
        return True

    def _norm_problem(self, loss: float, report: Any) -> str:
        """What is wrong with the gradients, or "" if it is another rank that refused."""
        if math.isfinite(report.grad_norm):
            return ""
        if self.optimizer.scaler is not None:
            return f"loss is {loss} with gradients that overflow at loss scale 1"
        return f"gradient norm is {report.grad_norm} (the loss is {loss})"
