"""The steps of a run: pass after pass over the data, and after each step what the callbacks asked for."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Any, List, Optional

from paddlenlp.parallel import signals
from paddlenlp.trainer.batches import TrainBatches, real_tokens_of, samples_of, tokens_of
from paddlenlp.trainer.step import StepResult, TrainStep
from paddlenlp.utils.log import logger

if TYPE_CHECKING:
    from paddlenlp.trainer.trainer import Trainer


class TrainingLoop:
    """Runs the steps of `trainer`, whose state, control and interval it moves on.

    Args:
        trainer: whose run it is.
        batches: the data, from where the run is to go on.
        step: carries out one optimizer step.
    """

    def __init__(self, trainer: Trainer, batches: TrainBatches, step: TrainStep) -> None:
        self.trainer = trainer
        self.args = trainer.args
        self.batches = batches
        self.step = step

    def run(self) -> None:
        """Steps until a callback says stop.

        Raises:
            signals.Agreed: a signal asked one of the ranks to end. All end at the same step, which has been saved.
        """
        with signals.deferred():
            self._passes()

    def _passes(self) -> None:
        trainer = self.trainer
        while not trainer.control.should_training_stop:
            trainer.control.should_epoch_stop = False
            trainer.event("on_epoch_begin")
            self._one_pass()
            trainer.control.begin_step()
            trainer.event("on_epoch_end")
            self._after_step(None)

    def _one_pass(self) -> None:
        trainer, steps = self.trainer, self.batches.one_pass()
        while not (trainer.control.should_training_stop or trainer.control.should_epoch_stop):
            with trainer.phases("read-data"):
                micro_batches = next(steps, None)
            if micro_batches is None:
                return
            trainer.control.begin_step()
            trainer.event("on_load_data_end", inputs=micro_batches)
            trainer.event("on_step_begin")
            result = self._step(micro_batches)
            self._advance(micro_batches, result)
            trainer.event("on_step_end")
            self._after_step(result)
        if trainer.control.should_epoch_stop:
            self.batches.next_pass()

    def _step(self, micro_batches: List[Any]) -> Optional[StepResult]:
        """Train on the micro-batches; None if `skip_data_intervals` says to pass them over."""
        number = self.trainer.state.global_step + 1
        if self.args.skips_step(number):
            logger.warning(f"Step {number}: data passed over without training, as skip_data_intervals says")
            return None
        self.trainer.present_metrics = None
        result = self.step.run(number, micro_batches)
        for _ in micro_batches[1:]:
            self.trainer.event("on_substep_end")
        return result

    def _advance(self, micro_batches: List[Any], result: Optional[StepResult]) -> None:
        state, ranks = self.trainer.state, self.args.dataset_world_size
        state.global_step += 1
        state.consumed_samples = self.batches.consumed_samples
        state.epoch = self.batches.epoch
        if result is None:
            return
        state.add_loss(result.loss)
        self.trainer.interval.add(samples_of(micro_batches) * ranks, tokens_of(micro_batches) * ranks)
        if self.args.count_trained_tokens:
            state.trained_tokens += tokens_of(micro_batches) * ranks
            state.trained_effective_tokens += real_tokens_of(micro_batches, self.args.pad_token_id)

    def _after_step(self, result: Optional[StepResult]) -> None:
        """What the callbacks asked for, in this order: log line, evaluation, checkpoint; and whether a signal came.

        Signals are looked for on both sides of what takes long, so that nothing more is begun than was under way.
        """
        trainer = self.trainer
        if trainer.control.should_log:
            trainer.log_interval(result)
        self._heed_signals()
        moment, metrics = time.time(), None
        evaluates, saves = trainer.control.should_evaluate, trainer.control.should_save
        if evaluates:
            metrics = trainer.evaluate()
        if saves or (trainer.control.should_training_stop and trainer.unsaved()):
            trainer.save_checkpoint(metrics)
        if evaluates or saves:
            self._heed_signals()
        trainer.interval.pause_since(moment)

    def _heed_signals(self) -> None:
        """Save and end if a signal asked for it."""
        number, trainer = signals.agreed(), self.trainer
        if not number:
            return
        if trainer.unsaved():
            trainer.save_checkpoint()
        raise signals.Agreed(number, f"stopped on {signal.Signals(number).name} {trainer.whereabouts()}")
