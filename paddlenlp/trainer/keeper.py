"""The checkpoints of a run: written, the best one remembered, those that are too many removed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Union

from paddlenlp.checkpoint.folder import checkpoint_folders, remove_checkpoint, rotate, settle, settle_files
from paddlenlp.checkpoint.space import Plan, check_run_fits, make_room
from paddlenlp.parallel.errand import first_does
from paddlenlp.trainer import restore, snapshot
from paddlenlp.trainer.best import is_better
from paddlenlp.trainer.piece_state import masters_from_weights
from paddlenlp.trainer.save_failures import SaveFailures
from paddlenlp.trainer.saving import Job, Saver
from paddlenlp.trainer.state import TrainerState
from paddlenlp.transformers.export import GENERATION_CONFIG, generation_config
from paddlenlp.utils.disk import write_failed
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.files import atomic_write_json
from paddlenlp.utils.log import logger


class CheckpointKeeper:
    """Keeps the checkpoints in `args.output_dir`. All ranks of a job call the same methods; rank 0 writes.

    Args:
        extra_files: copied into every checkpoint.

    Attributes:
        last: the newest checkpoint that this run wrote or began from.
        failures: what is done about writes that fail.
        listener: called with the folder of every checkpoint that has been written; on every rank.
    """

    def __init__(self, model: Any, tokenizer: Any, args: Any, extra_files: Sequence[Union[str, Path]]) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.args = args
        self.extra_files = list(extra_files)
        self.last: Optional[Path] = None
        self.stale: List[Path] = []
        self.failures = SaveFailures(args.save_failure_policy)
        self.saver = Saver(model, args)
        self.listener: Callable[[Path], Any] = lambda folder: None
        self._undo: Tuple[Any, Any] = (None, (None, None))

    def begin(self, resumed: Optional[Path]) -> None:
        """A run begins, from checkpoint `resumed` or anew; in the latter case the checkpoints that lie here are another
        run's, and go when this one has written its first."""
        if self.args.save_enabled:
            first_does(self._clean_up)
        here = checkpoint_folders(self.args.output_dir)
        self.last = resumed
        self.stale = here if resumed is None else []
        later = [] if resumed is None else [path.name for path in here if _step(path) > _step(resumed)]
        if later:
            logger.warning(
                f"Going on from {resumed}, but {self.args.output_dir} also holds {', '.join(later)}: a restart without "
                "resume_from_checkpoint takes the highest step. Remove what is not wanted."
            )

    def _clean_up(self) -> None:
        output_dir = Path(self.args.output_dir)
        settle(output_dir)
        settle_files(output_dir)

    def check_space(self, optimizer: Any) -> None:
        """Find out before training whether the checkpoints fit on the disk.

        Raises:
            UsageError: they do not; the message has the path, the bytes needed and free.
        """
        if self.args.save_enabled:
            needed = self.saver.prepare(optimizer)
            first_does(lambda: check_run_fits(self.args.output_dir, needed, self._planned()))

    def _planned(self) -> Plan:
        return planned_checkpoints(self.args, self.last, self.stale)

    def save(
        self, state: TrainerState, optimizer: Any, lr_scheduler: Any, metrics: Optional[Dict[str, float]]
    ) -> Optional[Path]:
        """Write `checkpoint-{global_step}`, then remove those that are too many.

        Args:
            metrics: of an evaluation at this step, if there was one.

        Returns:
            The folder, on every rank; None if it could not be written and `save_failure_policy` is to continue, or if
            it is being written beside the training: see `look`.

        Raises:
            UsageError: the checkpoint, or the one under way before, cannot be written and the run is to stop; on every
                rank. What was there before is as it was.
        """
        self.finish()
        start, folder = time.time(), Path(self.args.output_dir) / f"checkpoint-{state.global_step}"
        best = (state.best_metric, state.best_model_checkpoint)
        self._note_best(state, metrics, folder)
        states = snapshot.states_to_save(state, optimizer, lr_scheduler, self.args)
        limit, kept = self.args.save_total_limit, state.best_model_checkpoint

        def follow_up() -> None:
            how = " beside the training" if self.saver.beside_training else ""
            logger.info(f"Saved checkpoint {folder} in {time.time() - start:.2f} s{how}")
            self._remove_stale(folder)
            rotate(folder.parent, limit, keep=[kept, folder])

        needed = self.saver.prepare(optimizer)
        job = Job(folder, states, self._describe, lambda: make_room(folder.parent, needed, limit, [kept]), follow_up)
        self._undo = (state, best)
        try:
            self.saver.save(job)
        except UsageError as error:
            self._failed(folder, state, best, error)
            return None
        return None if self.saver.under_way else self._has(folder)

    def _has(self, folder: Path) -> Path:
        """Checkpoint `folder` is there."""
        self.last = folder
        self.listener(folder)
        return folder

    def look(self) -> Optional[Path]:
        """Whether a save beside the training has ended on all ranks since the last look: the folder it has written.

        Raises:
            UsageError: it failed, and the run is to stop; on every rank.
        """
        return self.finish() if self.saver.is_over() else None

    def finish(self) -> Optional[Path]:
        """Wait for the save beside the training, if there is one; the folder it has written. Raises as `look`."""
        folder = self.saver.under_way
        if folder is None:
            return None
        try:
            self.saver.conclude()
        except UsageError as error:
            self._failed(folder, *self._undo, error)
            return None
        return self._has(folder)

    def _failed(self, folder: Path, state: TrainerState, best: Tuple[Any, Optional[str]], error: UsageError) -> None:
        """Checkpoint `folder` was not written. `best`: metric and folder that counted as the best before it."""
        if state.best_model_checkpoint == str(folder):
            state.best_metric, state.best_model_checkpoint = best
        last = "there is none yet" if self.last is None else f"the newest is {self.last}"
        self.failures.meet(error, f"training goes on, the next save tries again; {last}.")

    def _remove_stale(self, written: Path) -> None:
        """Delete what an overwritten run left, so that a restart can't take it for this run's."""
        for folder in self.stale:
            if folder.name != written.name:
                logger.info(f"overwrite_output_dir: removing {folder} of the run that was here before")
                remove_checkpoint(folder)
        self.stale = []

    def holds(self, step: int) -> bool:
        """Whether the newest checkpoint, be it under way, is that of `step`."""
        newest = self.saver.under_way or self.last
        return newest is not None and newest.name == f"checkpoint-{step}"

    def load_best(self, state: TrainerState) -> bool:
        """With `load_best_model_at_end`, give the model the weights of the best checkpoint; whether that was done."""
        if not self.args.effective_load_best_model_at_end or state.best_model_checkpoint is None:
            return False
        # By name: the output folder may have been moved since.
        folder = Path(self.args.output_dir) / Path(state.best_model_checkpoint).name
        restore.check(folder)
        name = self.args.effective_metric_for_best_model
        logger.info(f"Loading the best weights: {folder}, {name} {state.best_metric}")
        restore.load_model(self.model, folder)
        masters_from_weights(self.model)
        return True

    def save_model(self, folder: Path) -> None:
        """Write weights, configuration, tokenizer and the extra files: a folder `from_pretrained` reads.

        Raises:
            UsageError: they cannot be written, whatever `save_failure_policy` is: this is what the run was for.
        """
        self.model.save_pretrained(folder)
        first_does(lambda: self._write_beside(folder))
        logger.info(f"Saved model {folder}")

    def note_best(self, state: TrainerState, metrics: Dict[str, float]) -> None:
        """An evaluation is over of a step whose checkpoint has been written before, since a signal came between."""
        self._note_best(state, metrics, Path(self.args.output_dir) / f"checkpoint-{state.global_step}")

    def _note_best(self, state: TrainerState, metrics: Optional[Dict[str, float]], folder: Path) -> None:
        value = (metrics or {}).get(self.args.effective_metric_for_best_model)
        if value is not None and is_better(value, state.best_metric, self.args.effective_greater_is_better):
            state.best_metric, state.best_model_checkpoint = value, str(folder)

    def _describe(self, folder: Path) -> None:
        """What `from_pretrained` needs beside the weights."""
        self.model.config.save_pretrained(folder)
        atomic_write_json(folder / GENERATION_CONFIG, generation_config(self.model), sort_keys=True)
        self._write_companions(folder)

    def _write_beside(self, folder: Path) -> None:
        try:
            self._write_companions(folder)
        except OSError as error:
            raise write_failed(folder, error, what="what belongs to the model") from error

    def _write_companions(self, folder: Path) -> None:
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(folder)
        snapshot.copy_files(self.extra_files, folder)


def planned_checkpoints(args: Any, begun_from: Optional[Path], stale: Sequence[Path]) -> Plan:
    """How many checkpoints a run will have, by its arguments.

    Args:
        begun_from: the checkpoint it goes on from.
        stale: checkpoints of an earlier run in its folder, which go when it has written its first.
    """
    begin, end, limit = 0 if begun_from is None else _step(begun_from), args.effective_max_steps, args.save_total_limit
    by_steps = args.effective_save_strategy == "steps"
    to_come = end // args.save_steps - begin // args.save_steps + bool(end % args.save_steps) if by_steps else None
    kept = max(limit, 1 + (args.effective_evaluation_strategy != "no")) if limit else None  # the best one stays
    here = 0 if stale else len(checkpoint_folders(args.output_dir))
    return Plan(to_come, kept and kept + 1, here, stale)


def _step(folder: Path) -> int:
    """Of a checkpoint, or 0: a run may begin from a folder of another name."""
    number = folder.name.rpartition("-")[2]
    return int(number) if number.isdigit() else 0
