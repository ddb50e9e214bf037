"""The steps of a run: pass after pass over the data, and after each step what the callbacks asked for."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Any, Dict, List, Optional

from paddlenlp.parallel import signals
from paddlenlp.parallel.heartbeat import beat
from paddlenlp.trainer.bad_steps import BadSteps
from paddlenlp.trainer.batches import TrainBatches, real_tokens_of, samples_of, tokens_of
from paddlenlp.trainer.reading import Reader
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
        bad_steps: what to do about those that are bad.
    """

    def __init__(self, trainer: Trainer, batches: TrainBatches, step: TrainStep, bad_steps: BadSteps) -> None:
        self.trainer = trainer
        self.args = trainer.args
        self.batches = batches
        self.step = step
        self.bad_steps = bad_steps
        self.reader = Reader()

    def run(self) -> None:
        """Steps until a callback says stop.

        Raises:
            signals.Agreed: a signal asked one of the ranks to end. All end at the same step, which has been saved.
        """
        try:
            with signals.deferred(), self.reader:
                self._make_up()
                self._passes()
                self.trainer.keeper.finish()
                signals.heed()
        except signals.Agreed as request:
            with signals.deferred():
                self._save_before_end()
            name = signal.Signals(request.number).name
            raise signals.Agreed(request.number, f"stopped on {name} {self.trainer.whereabouts()}") from None

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
            beat.step = trainer.state.global_step + 1
            with trainer.phases("read-data"), trainer.interval.waiting():
                micro_batches = self.reader.read(steps)
            if micro_batches is None:
                return
            trainer.control.begin_step()
            trainer.event("on_load_data_end", inputs=micro_batches)
            trainer.event("on_step_begin")
            result = self._step(micro_batches)
            if result is not None and result.finding is not None:
                if self.bad_steps.deal_with(result, micro_batches):
                    steps = self.batches.one_pass()
                    self._make_up()
                    continue
                result = None
            self._advance(micro_batches, result)
            trainer.event("on_step_end")
            self._after_step(result)
        if trainer.control.should_epoch_stop:
            self.batches.next_pass()

    def _step(self, micro_batches: List[Any]) -> Optional[StepResult]:
        """Train on the micro-batches; None if they are to be passed over."""
        number = self.trainer.state.global_step + 1
        if self.args.skips_step(number):
            logger.warning(f"Step {number}: data passed over without training, as skip_data_intervals says")
            return None
        if self.bad_steps.passes_over():
            logger.warning(f"Step {number}: data passed over without training, since it has made a bad step before")
            return None
        self.trainer.present_metrics = None
        result = self.step.run(number, micro_batches, signals.heed)
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
        self.bad_steps.count_good(result)
        state.add_loss(result.loss)
        self.trainer.interval.add(samples_of(micro_batches) * ranks, tokens_of(micro_batches) * ranks)
        if self.args.count_trained_tokens:
            state.trained_tokens += tokens_of(micro_batches) * ranks
            state.trained_effective_tokens += real_tokens_of(micro_batches, self.args.pad_token_id)

    def _after_step(self, result: Optional[StepResult]) -> None:
        """What the callbacks asked for, in this order: log line, evaluation, checkpoint.

        A signal is heeded where data is read, so within the evaluation, or before the next step.
        """
        trainer = self.trainer
        if trainer.control.should_log:
            trainer.log_interval(result)
        trainer.keeper.look()
        moment, metrics = time.time(), None
        evaluates, saves = trainer.control.should_evaluate, trainer.control.should_save
        trainer.state.pending = ["evaluate", *["save"] * saves] if evaluates else []
        if evaluates:
            metrics = self._evaluate()
        if saves or (trainer.control.should_training_stop and trainer.unsaved()):
            trainer.save_checkpoint(metrics)
        trainer.interval.pause_since(moment)

    def _evaluate(self) -> Dict[str, float]:
        metrics = self.trainer.evaluate()
        self.trainer.state.pending = []
        return metrics

    def _make_up(self) -> None:
        """The evaluation that a signal has kept the run from: it comes late, but before the next step, as it would have
        come."""
        trainer, state = self.trainer, self.trainer.state
        trainer.control.should_training_stop |= state.global_step >= state.max_steps
        if not state.pending:
            return
        counts = "save" in state.pending
        metrics = self._evaluate()
        if counts:
            trainer.keeper.note_best(state, metrics)

    def _save_before_end(self) -> None:
        """Save the last whole step, unless that is under way; of a run that has made none nothing is to be saved."""
        keeper = self.trainer.keeper
        keeper.finish()
        if self.trainer.state.global_step and self.trainer.unsaved():
            self.trainer.save_checkpoint()
            keeper.finish()
