"""Callbacks: what happens around the training loop, and when it logs, evaluates and saves."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Sequence, Type, Union

from paddlenlp.trainer.best import is_better
from paddlenlp.trainer.state import TrainerControl, TrainerState
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.log import logger


class TrainerCallback:
    """Base of all callbacks: override the events you need.

    Every event takes `args`, `state` (to be read), `control` (to be set or returned) and, by name, the objects of the
    trainer: `model`, `tokenizer`, `optimizer`, `lr_scheduler`, `train_dataloader`; some events give further names, as
    said below. An event returns None or the `TrainerControl` to go on with.
    """

    def on_init_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """The trainer has been made."""

    def on_load_data_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """The micro-batches of a step have been read (`inputs`: list of them)."""

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """Training begins or goes on; the checkpoint, if any, is loaded."""

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """Training ended as planned; everything is saved."""

    def on_epoch_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """A pass over the training set begins."""

    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """A pass over the training set, or the run, ends."""

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """A step begins; `state.global_step` is the number of steps before it."""

    def on_substep_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """Once for each micro-batch but the last; as the model runs them in one call, after all of them."""

    def on_optimizer_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """The gradients are there, the weights not yet changed."""

    def on_optimizer_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """The weights have been changed, the gradients not yet cleared."""

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """A step ended; the place to ask for a log line, an evaluation, a checkpoint."""

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """An evaluation ended (`metrics`)."""

    def on_predict(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """A prediction ended (`metrics`)."""

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """A checkpoint has been written (`checkpoint`: its folder)."""

    def on_rollback(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """After a bad step the run has gone back to a checkpoint (`checkpoint`: its folder); `state` is that one's."""

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """A log record is out (`logs`: name -> value, in order)."""

    def on_prediction_step(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """A batch of an evaluation or prediction is done (`total`: how many there are)."""

    def on_close(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """Training is left, as planned or by an exception: close what is open."""


CallbackLike = Union[TrainerCallback, Type[TrainerCallback]]


class CallbackHandler:
    """Calls every callback, in order, at each event."""

    def __init__(self, callbacks: Sequence[CallbackLike]) -> None:
        self.callbacks: List[TrainerCallback] = []
        for callback in callbacks:
            self.add(callback)

    def add(self, callback: CallbackLike) -> None:
        """Append a callback, given as an object or a class."""
        self.callbacks.append(callback() if isinstance(callback, type) else callback)

    def pop(self, callback: CallbackLike) -> Optional[TrainerCallback]:
        """Take out and return the first callback that is `callback` or of that class; None if there is none."""
        for known in self.callbacks:
            if known is callback or (isinstance(callback, type) and type(known) is callback):
                self.callbacks.remove(known)
                return known
        return None

    def call(
        self, event: str, args: Any, state: TrainerState, control: TrainerControl, **objects: Any
    ) -> TrainerControl:
        """Call `event` of every callback; a control that one returns is what the next one gets."""
        for callback in self.callbacks:
            answer = getattr(callback, event)(args, state, control, **objects)
            control = control if answer is None else answer
        return control


class DefaultFlowCallback(TrainerCallback):
    """Asks for log lines, evaluations and checkpoints as the arguments say, and for the last log line.

    The last step is saved by the trainer itself, whoever stopped the run.
    """

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        """The strategies "steps", and the end of the run."""
        step, last = state.global_step, state.global_step >= state.max_steps
        due = {
            "log": args.effective_logging_strategy == "steps" and step % args.logging_steps == 0,
            "save": args.effective_save_strategy == "steps" and step % args.save_steps == 0,
            "evaluate": args.effective_evaluation_strategy == "steps" and step % args.effective_eval_steps == 0,
        }
        control.should_log |= due["log"] or (step == 1 and args.logging_first_step)
        control.should_evaluate |= due["evaluate"]
        control.should_save |= due["save"]
        if last or control.should_training_stop:
            control.should_log |= args.effective_logging_strategy != "no"
            control.should_evaluate |= args.effective_evaluation_strategy == "epoch"
        control.should_training_stop |= last
        return control

    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        """The strategies "epoch", unless the run ends here and `on_step_end` has seen to it."""
        if control.should_training_stop:
            return control
        control.should_log |= args.effective_logging_strategy == "epoch"
        control.should_evaluate |= args.effective_evaluation_strategy == "epoch"
        control.should_save |= args.effective_save_strategy == "epoch"
        return control


class PrinterCallback(TrainerCallback):
    """Writes each log record as one line: `name: value, name: value`."""

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Print `logs`."""
        if state.is_local_process_zero:
            logger.info(log_line(kwargs["logs"]))


def log_line(logs: Dict[str, Any]) -> str:
    """`name: value` pairs in the order of `logs`, separated by commas."""
    return ", ".join(f"{name}: {value}" for name, value in logs.items())


class EarlyStoppingCallback(TrainerCallback):
    """Stops training when `metric_for_best_model` has not improved for some evaluations.

    Args:
        early_stopping_patience: evaluations without improvement after which training stops.
        early_stopping_threshold: by how much a value must be better than the best to count as an improvement.
    """

    def __init__(self, early_stopping_patience: int = 1, early_stopping_threshold: float = 0.0) -> None:
        self.patience = early_stopping_patience
        self.threshold = early_stopping_threshold
        self.best: Optional[float] = None
        self.misses = 0

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Refuse arguments under which nothing would ever be compared; take the best value of a resumed run."""
        if args.effective_evaluation_strategy == "no":
            raise UsageError("EarlyStoppingCallback needs evaluations: set evaluation_strategy to steps.")
        self.best, self.misses = state.best_metric, 0

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Compare the metric with the best so far."""
        name = args.effective_metric_for_best_model
        value = kwargs["metrics"].get(name)
        if value is None:
            logger.warning(f"Early stopping: the evaluation has no {name}, so nothing is compared.")
            return
        if is_better(value, self.best, args.effective_greater_is_better, self.threshold):
            self.best, self.misses = value, 0
        else:
            self.misses += 1
        if self.misses >= self.patience:
            logger.info(f"{name} has not improved for {self.misses} evaluations: training stops.")
            control.should_training_stop = True
