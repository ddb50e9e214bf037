"""Where a run stands (`TrainerState`) and what it is asked to do next (`TrainerControl`)."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Dict, List, Optional

from paddlenlp.utils.errors import UsageError


@dataclass
class TrainerState:
    """Position and history of a run; its JSON form is `trainer_state.json` of every checkpoint.

    Attributes:
        global_step: optimizer steps done, the skipped ones included.
        max_steps: steps of the whole run.
        epoch: passes over the training set, as a fraction.
        consumed_samples: position in the training data: samples read by all ranks together since the run began.
            On resume this number is trusted; it does not depend on batch sizes or on how many ranks there are.
        trained_steps: steps whose loss was computed (`global_step` less the skipped ones).
        total_loss: sum of the losses of those steps.
        interval_loss, interval_steps: the same since the last log line, so that a resumed run logs the same means.
        trained_tokens, trained_effective_tokens: tokens read, and those of them that are not padding.
        pending: what the step at which a signal ended the run still owed: "evaluate", and "save" if its checkpoint was
            due anyway and the evaluation counts for it. The resumed run begins with that.
        recent_losses: of the last good steps, by which `loss_spike_bound` measures.
        last_bad_step, bad_steps_in_a_row: the highest step that was bad, and how many have been since a step behind the
            last one was good.
        passed_over: data that spoilt a step before the run went back: [first, behind the last] of `consumed_samples`.
        best_metric, best_model_checkpoint: best value of `metric_for_best_model` and the folder saved with it.
        log_history: every log record since the run began.
    """

    global_step: int = 0
    max_steps: int = 0
    num_train_epochs: float = 1.0
    epoch: float = 0.0
    consumed_samples: int = 0
    trained_steps: int = 0
    total_loss: float = 0.0
    interval_loss: float = 0.0
    interval_steps: int = 0
    trained_tokens: int = 0
    trained_effective_tokens: int = 0
    pending: List[str] = field(default_factory=list)
    recent_losses: List[float] = field(default_factory=list)
    last_bad_step: int = 0
    bad_steps_in_a_row: int = 0
    passed_over: List[List[int]] = field(default_factory=list)
    best_metric: Optional[float] = None
    best_model_checkpoint: Optional[str] = None
    log_history: List[Dict[str, Any]] = field(default_factory=list)
    is_local_process_zero: bool = True
    is_world_process_zero: bool = True
    total_flos: float = 0.0
    trial_name: Optional[str] = None
    trial_params: Optional[Dict[str, Any]] = None

    def to_dict(self) -> Dict[str, Any]:
        """A JSON-able copy."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Dict[str, Any]) -> TrainerState:
        """The state of `to_dict`; names this version does not know are left out.

        Raises:
            UsageError: a value is not of the kind that `to_dict` gives.
        """
        kinds = {item.name: type(getattr(cls(), item.name)) for item in fields(cls)}
        kept = {name: value for name, value in values.items() if name in kinds}
        odd = [f"{name}={str(value)[:40]!r}" for name, value in kept.items() if not _is_of_kind(value, kinds[name])]
        if odd:
            raise UsageError(f"the state of the run holds values of the wrong kind: {', '.join(odd)}")
        return cls(**kept)

    def add_loss(self, loss: float) -> None:
        """Count the loss of one trained step; one that is not finite (float16, see `step`) has no part in the means."""
        if not math.isfinite(loss):
            return
        self.trained_steps += 1
        self.interval_steps += 1
        self.total_loss += loss
        self.interval_loss += loss

    def take_interval_loss(self) -> float:
        """Mean loss since the last call, 0.0 if no step was trained; starts the next interval."""
        mean = self.interval_loss / self.interval_steps if self.interval_steps else 0.0
        self.interval_loss, self.interval_steps = 0.0, 0
        return mean

    @property
    def train_loss(self) -> float:
        """Mean loss of all trained steps since the run began."""
        return self.total_loss / self.trained_steps if self.trained_steps else 0.0


def _is_of_kind(value: Any, kind: type) -> bool:
    """Whether `value` can stand where the default is a `kind`; a default of None says nothing."""
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return kind is type(None) or type(value) is kind


@dataclass
class TrainerControl:
    """Switches that callbacks set and the loop reads.

    Attributes:
        should_training_stop: leave the loop after this step.
        should_epoch_stop: begin the next pass over the data after this step.
        should_log, should_evaluate, should_save: do so after this step; cleared before the next.
    """

    should_training_stop: bool = False
    should_epoch_stop: bool = False
    should_save: bool = False
    should_evaluate: bool = False
    should_log: bool = False

    def begin_training(self) -> None:
        """Clear everything."""
        self.should_training_stop = False
        self.should_epoch_stop = False
        self.begin_step()

    def begin_step(self) -> None:
        """Clear what holds for one step."""
        self.should_save = self.should_evaluate = self.should_log = False
