"""A progress bar for the terminal."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import Any, Optional

from tqdm.auto import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from paddlenlp.trainer.callbacks import TrainerCallback, log_line
from paddlenlp.trainer.state import TrainerControl, TrainerState
from paddlenlp.utils.log import logger


class ProgressCallback(TrainerCallback):
    """Bar of the steps with rate, time left, last loss and learning rate; each log record also as a line above it."""

    def __init__(self) -> None:
        self.open = ExitStack()
        self.steps: Optional[tqdm] = None
        self.batches: Optional[tqdm] = None

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Open the bar; log lines of the toolkit go above it from here on."""
        if not state.is_local_process_zero:
            return
        self.steps = tqdm(total=state.max_steps, initial=state.global_step, desc="TrainProcess", file=sys.stderr)
        self.open.enter_context(logging_redirect_tqdm([logger]))

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move the bar."""
        if self.steps is not None:
            self.steps.update(state.global_step - self.steps.n)

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Print the record and show its loss in the bar."""
        if not state.is_local_process_zero:
            return
        logs = kwargs["logs"]
        if self.steps is not None and "loss" in logs:
            self.steps.set_postfix(loss=f"{logs['loss']:.4f}", lr=f"{logs['learning_rate']:.3g}", refresh=False)
        logger.info(log_line(logs))

    def on_prediction_step(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """A bar of its own for the batches of an evaluation."""
        if not state.is_local_process_zero:
            return
        if self.batches is None:
            self.batches = tqdm(total=kwargs["total"], desc="Evaluating", leave=False, file=sys.stderr)
        self.batches.update()
        if self.batches.n >= kwargs["total"]:
            self._close_batches()

    def on_close(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Close the bars."""
        self._close_batches()
        if self.steps is not None:
            self.steps.close()
            self.steps = None
        self.open.close()

    def _close_batches(self) -> None:
        if self.batches is not None:
            self.batches.close()
            self.batches = None
