"""The Trainer: resumes, trains (the steps are in `loop`), logs, evaluates, saves."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

from paddlenlp.parallel import signals
from paddlenlp.parallel.heartbeat import beat
from paddlenlp.parallel.topology import topology
from paddlenlp.parallel.watchdog import watched
from paddlenlp.trainer import reporting, restore, snapshot
from paddlenlp.trainer.bad_steps import BadSteps
from paddlenlp.trainer.batches import TrainBatches
from paddlenlp.trainer.callbacks import CallbackHandler, CallbackLike, DefaultFlowCallback, PrinterCallback
from paddlenlp.trainer.evaluation import PredictionOutput, announce, plan_evaluation, run_evaluation
from paddlenlp.trainer.keeper import CheckpointKeeper
from paddlenlp.trainer.loggers import default_sinks
from paddlenlp.trainer.loop import TrainingLoop
from paddlenlp.trainer.metrics import Interval, Throughput, device_memory, host_memory, perplexity, speed_metrics
from paddlenlp.trainer.optimizer import build_optimizer
from paddlenlp.trainer.profiling import ProfileCallback
from paddlenlp.trainer.progress import ProgressCallback
from paddlenlp.trainer.rng import seed_rank
from paddlenlp.trainer.sample_text import SampleTextCallback
from paddlenlp.trainer.state import TrainerControl, TrainerState
from paddlenlp.trainer.step import StepResult, TrainStep
from paddlenlp.trainer.timers import Phases
from paddlenlp.transformers.optimization import build_lr_scheduler
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.files import atomic_write_json
from paddlenlp.utils.log import logger
from paddlenlp.utils.retries import retries


class TrainOutput(NamedTuple):
    """What `Trainer.train` returns."""

    global_step: int
    training_loss: float
    metrics: Dict[str, float]


class Trainer:
    """Trains a causal language model for `args.max_steps` steps; logs, evaluates, saves and resumes as `args` say.

    In a job of several processes each makes a Trainer, and all call the same methods in the same order: every rank runs
    the loop, evaluates and takes part in saving; logs and files are the first rank's. Callbacks are called on all of
    them, and those that change `control` must do so alike.

    Args:
        model: a `CausalLM`.
        args: `TrainingArguments`; they are only read.
        data_collator: makes a batch (`input_ids`, `labels`) of a list of dataset items.
        train_dataset, eval_dataset: have a length and items; needed by `train` and `evaluate`.
        tokenizer: saved beside the weights, and used for the sample text.
        callbacks: called after the built-in ones.
        optimizers: an optimizer and a learning-rate scheduler; None makes the one of `build_optimizer`
            or `build_lr_scheduler`.
        extra_checkpoint_files: copied into every checkpoint and beside the final weights.
    """

    def __init__(
        self,
        model: Any,
        args: Any,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        tokenizer: Any = None,
        callbacks: Optional[Sequence[CallbackLike]] = None,
        optimizers: Tuple[Any, Any] = (None, None),
        *,
        extra_checkpoint_files: Sequence[Union[str, Path]] = (),
    ) -> None:
        reporting.quieten(args)
        retries.limit = args.read_retries
        seed_rank(args)
        self.model = model
        self.args = args
        self.data_collator = data_collator
        self.train_dataset = train_dataset
        self.eval_dataset = eval_dataset
        self.tokenizer = tokenizer
        self.optimizer, self.lr_scheduler = optimizers
        self.keeper = CheckpointKeeper(model, tokenizer, args, extra_checkpoint_files)
        self.keeper.listener = lambda folder: self.event("on_save", checkpoint=folder)
        self.state = self._new_state()
        self.control = TrainerControl()
        self.interval = Interval()
        self.phases = Phases(args.times_phases)
        self.throughput = Throughput(args, model)
        self.batches: Any = None
        self.began_from: Optional[Path] = None
        self.present_metrics: Optional[Dict[str, float]] = None  # of the weights as they are, once evaluated
        self.callback_handler = CallbackHandler([*default_callbacks(args), *(callbacks or [])])
        self.event("on_init_end")

    def _new_state(self) -> TrainerState:
        return TrainerState(
            max_steps=self.args.effective_max_steps,
            is_local_process_zero=self.args.should_log,
            is_world_process_zero=self.args.process_index == 0,
        )

    def add_callback(self, callback: CallbackLike) -> None:
        """Append a callback, given as an object or a class."""
        self.callback_handler.add(callback)

    def remove_callback(self, callback: CallbackLike) -> None:
        """Take out a callback, given as an object or a class."""
        self.callback_handler.pop(callback)

    def event(self, name: str, **extra: Any) -> None:
        """Call the callbacks' method `name`."""
        objects = {
            "model": self.model,
            "tokenizer": self.tokenizer,
            "optimizer": self.optimizer,
            "lr_scheduler": self.lr_scheduler,
            "train_dataloader": self.batches,
        }
        self.control = self.callback_handler.call(name, self.args, self.state, self.control, **objects, **extra)

    # ---- training --------------------------------------------------------------------------------------------

    def train(self, resume_from_checkpoint: Union[None, bool, str, Path] = None) -> TrainOutput:
        """Train up to `args.max_steps`, going on from a checkpoint if there is one.

        Args:
            resume_from_checkpoint: a checkpoint's folder; True: the newest valid one of `output_dir`; False: none;
                None: as the arguments say, by default the newest valid one unless `overwrite_output_dir`.

        Raises:
            UsageError: no data, no `max_steps`, a checkpoint that is damaged or of another model, or a loss that is
                not finite.
            signals.Agreed: a signal asked for the end (see `signals.listen`); the last step has been saved.
        """
        if self.train_dataset is None or self.args.effective_max_steps < 1:
            raise UsageError("Training needs a train_dataset and max_steps of at least 1.")
        with watched(self.args.hang_timeout, topology().world.size):
            return self._train_from(resume_from_checkpoint)

    def _train_from(self, request: Union[None, bool, str, Path]) -> TrainOutput:
        with beat.phase("load checkpoint"):
            folder = restore.find_resume(self.args, request)
            self.began_from = folder
            self.keeper.begin(folder)
        self.put_back(folder)
        if folder is not None and self.state.global_step >= self.state.max_steps and not self.state.pending:
            return self._nothing_to_do(folder)
        try:
            return self._train(folder)
        except KeyboardInterrupt as error:
            if not isinstance(error, signals.Agreed):  # that one says so itself
                logger.warning(f"Interrupted {self.whereabouts()}")
            raise
        except UsageError:
            with suppress(UsageError):  # what is wrong is said already; a checkpoint under way is worth waiting for
                self.keeper.finish()
            raise
        finally:
            self.event("on_close")

    @beat.phase("load checkpoint")
    def put_back(self, folder: Optional[Path]) -> None:
        """Put weights, optimizer and position where the checkpoint has them; None: where a new run begins."""
        self.state = self._new_state()
        if self.lr_scheduler is None:
            self.lr_scheduler = build_lr_scheduler(self.args)
        if self.optimizer is None:  # before weights are read: it may cut them over the ranks
            self.optimizer = build_optimizer(self.model, self.args, self.lr_scheduler)
        if folder is not None:
            restore.load_model(self.model, folder)
            self.state = restore.load_state(folder, self.state)
            if self.args.ignore_data_skip:
                self.state.consumed_samples = 0
            restore.load_optimizer(self.model, self.optimizer, self.lr_scheduler, folder, self.args)
            restore.load_rng(folder, self.args.process_index)

    def _nothing_to_do(self, folder: Path) -> TrainOutput:
        logger.info(
            f"Training is complete: {folder} is at step {self.state.global_step} of max_steps {self.state.max_steps}. "
            "Nothing is trained. To train longer raise max_steps; to train anew set overwrite_output_dir."
        )
        self._load_best()
        results = reporting.read_results(Path(self.args.output_dir) / "train_results.json")
        return self._output(results or {"train_loss": self.state.train_loss})

    def _train(self, folder: Optional[Path]) -> TrainOutput:
        state, args = self.state, self.args
        self.keeper.check_space(self.optimizer)
        self.batches = TrainBatches(self.train_dataset, self.data_collator, args, state.consumed_samples)
        reporting.announce_training(args, state, len(self.train_dataset), self.model.num_parameters())
        if folder is not None:
            reporting.announce_resume(folder, state, not args.ignore_data_skip)
        self.model.train()
        self.control.begin_training()
        self.event("on_train_begin")
        start, first_step, first_sample = time.time(), state.global_step, self.batches.consumed_samples
        self.interval.restart()
        beat.enter("train")
        bad_steps = BadSteps(self)
        step = TrainStep(self.model, self.optimizer, self.lr_scheduler, self.event, self.phases, bad_steps.judge)
        TrainingLoop(self, self.batches, step, bad_steps).run()
        beat.enter("end")
        logger.info("\nTraining completed. \n")
        self._load_best()
        samples = self.batches.consumed_samples - first_sample
        metrics = speed_metrics("train", start, samples, state.global_step - first_step)
        metrics = self.log({**metrics, "train_loss": state.train_loss})
        self.event("on_train_end")
        return self._output(metrics)

    @beat.phase("load checkpoint")
    def _load_best(self) -> None:
        if self.keeper.load_best(self.state):
            self.present_metrics = None

    def _output(self, metrics: Dict[str, float]) -> TrainOutput:
        return TrainOutput(self.state.global_step, self.state.train_loss, metrics)

    # ---- logging ---------------------------------------------------------------------------------------------

    def log_interval(self, result: Optional[StepResult]) -> None:
        """The training log line: the reference's entries in its order, then those it does not have."""
        state, steps = self.state, self.state.interval_steps
        speed, tail = self.throughput.measure(self.interval)
        loss = state.take_interval_loss()
        logs: Dict[str, Any] = {
            "loss": round(loss, 8),
            "learning_rate": float(f"{self.lr_scheduler():.3e}"),
            "global_step": state.global_step,
            **device_memory(),
            **speed,
            **({} if self.args.skip_memory_metrics else host_memory()),
        }
        norm = {} if result is None else {"grad_norm": round(result.grad_norm, 6)}
        self.log(logs, {"ppl": perplexity(loss), **tail, **norm} if steps else {})
        if self.args.count_trained_tokens:
            logger.info(
                f"Update to now, trained_effective_tokens: {state.trained_effective_tokens}, "
                f"trained_tokens: {state.trained_tokens}."
            )
        if self.phases.enabled:
            logger.info(self.phases.report(state.global_step, steps))
        self.interval.restart()

    def log(self, logs: Dict[str, Any], tail: Optional[Dict[str, Any]] = None) -> Dict[str, Any]:
        """Send a record to screen, files and dashboards, and keep it in `state.log_history`.

        Args:
            logs: the entries, in order; `progress_or_epoch` comes after them.
            tail: entries behind that.

        Returns:
            The whole record.
        """
        record = {**logs, "progress_or_epoch": round(self.state.epoch, 4), **(tail or {})}
        self.state.log_history.append({**record, "global_step": self.state.global_step})
        self.event("on_log", logs=record)
        return record

    def log_metrics(self, split: str, metrics: Dict[str, Any]) -> None:
        """Log the metrics of a split ("train", "eval", "test") as a table."""
        if self.args.should_log:
            reporting.log_metrics(split, metrics)

    def save_metrics(self, split: str, metrics: Dict[str, Any], combined: bool = True) -> None:
        """Write `{split}_results.json` and, with `combined`, add the metrics to `all_results.json`; if that fails
        `save_failure_policy` says what follows."""
        if self.args.process_index == 0:
            with self.keeper.failures.guard(Path(self.args.output_dir) / f"{split}_results.json"):
                reporting.save_metrics(self.args.output_dir, split, metrics, combined)

    # ---- saving ----------------------------------------------------------------------------------------------

    @beat.phase("save")
    def save_checkpoint(self, metrics: Optional[Dict[str, float]] = None) -> None:
        """Write `checkpoint-{global_step}`; with `async_save`, begin to. Callbacks hear of it when it is there.

        Args:
            metrics: of an evaluation at this step, if there was one.
        """
        self.keeper.save(self.state, self.optimizer, self.lr_scheduler, metrics)

    def unsaved(self) -> bool:
        """Whether this step ought to be saved and is not: a callback may stop training at any time."""
        return self.args.save_enabled and not self.keeper.holds(self.state.global_step)

    @beat.phase("save")
    def save_model(self, output_dir: Union[None, str, Path] = None) -> None:
        """Write the final weights, configuration and tokenizer, by default into `args.output_dir`.

        Raises:
            signals.Agreed: a signal came meanwhile; they have been written.
        """
        folder = Path(self.args.output_dir if output_dir is None else output_dir)
        with signals.deferred(f"after writing the model to {folder}"):
            self.keeper.save_model(folder)
            signals.heed()

    def save_state(self) -> None:
        """Write `trainer_state.json` into `args.output_dir`; if that fails `save_failure_policy` says what follows."""
        path = Path(self.args.output_dir) / snapshot.TRAINER_STATE
        if self.args.process_index == 0:
            with self.keeper.failures.guard(path):
                atomic_write_json(path, self.state.to_dict(), sort_keys=True)

    def whereabouts(self) -> str:
        """How far the run is, and from where it can go on."""
        saved, state = self.keeper.last, self.state
        where = f"The same command goes on from {saved}" if saved else "No checkpoint was saved yet"
        return f"at step {state.global_step} of {state.max_steps}. {where}."

    # ---- evaluation ------------------------------------------------------------------------------------------

    def evaluate(self, eval_dataset: Any = None, metric_key_prefix: str = "eval") -> Dict[str, float]:
        """Loss and perplexity on `eval_iters` batches of the validation set; neither weights, random numbers nor the
        position in the training data change.

        Which batches depends on the step only, as each evaluation takes those behind the last one's.

        Returns:
            `{prefix}_loss`, `_runtime`, `_samples_per_second`, `_steps_per_second`, `_ppl`, and `progress_or_epoch`.

        Raises:
            UsageError: there is no validation set.
            signals.Agreed: a signal asked for the end: it is heeded between two batches.
        """
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        number = self.state.global_step // self.args.effective_eval_steps
        metrics = self._measure("Evaluation", dataset, "eval_iters", number, metric_key_prefix)
        self.event("on_evaluate", metrics=metrics)
        if eval_dataset is None:
            self.present_metrics = metrics
        return metrics

    def final_evaluation(self) -> Dict[str, float]:
        """`evaluate` for the end of a run: what the last step's evaluation found, unless the weights changed since."""
        return self.evaluate() if self.present_metrics is None else self.present_metrics

    def predict(self, test_dataset: Any, metric_key_prefix: str = "test") -> PredictionOutput:
        """The same on `test_iters` batches of a test set. Only metrics are kept: logits of a vocabulary don't fit."""
        metrics = self._measure("Prediction", test_dataset, "test_iters", 0, metric_key_prefix)
        self.event("on_predict", metrics=metrics)
        return PredictionOutput(None, None, metrics)

    @beat.phase("evaluate")
    def _measure(self, title: str, dataset: Any, iters: str, number: int, prefix: str) -> Dict[str, float]:
        if dataset is None:
            raise UsageError(f"{title} needs a dataset. Give one, or give `split` a share above 0 for it.")
        # Plain TrainingArguments know no eval_iters: the whole dataset then.
        plan = plan_evaluation(self.args, len(dataset), getattr(self.args, iters, len(dataset)), number)
        announce(title, plan, self.args.dataset_world_size)
        with signals.deferred(f"during the {title.lower()}"):
            metrics = run_evaluation(self.model, self.args, dataset, self.data_collator, plan, prefix, self._tick)
        ppl = metrics.pop(f"{prefix}_ppl")
        return self.log(metrics, {f"{prefix}_ppl": ppl})

    def _tick(self, total: int) -> None:
        beat.progress()
        self.event("on_prediction_step", total=total)


def default_callbacks(args: Any) -> List[CallbackLike]:
    """The callbacks of every run: flow, sinks, screen, sample text."""
    bar = not args.effective_disable_tqdm and (args.disable_tqdm is False or sys.stderr.isatty())
    callbacks: List[CallbackLike] = [DefaultFlowCallback, *default_sinks(args)]
    callbacks.append(ProgressCallback if bar else PrinterCallback)
    if getattr(args, "sample_prompt", None):
        callbacks.append(SampleTextCallback)
    if args.profile_steps is not None:
        callbacks.append(ProfileCallback)
    return callbacks
