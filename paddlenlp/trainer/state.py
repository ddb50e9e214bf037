"""Where a run stands (`TrainerState`) and what it is asked to do next (`TrainerControl`)."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Dict, List, Optional


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
        """The state of `to_dict`; names this version does not know are left out."""
        known = {item.name for item in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})

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
