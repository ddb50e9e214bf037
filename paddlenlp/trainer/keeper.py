"""The checkpoints of a run: written, the best one remembered, those that are too many removed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Union

from paddlenlp.checkpoint.folder import checkpoint_folders, remove_checkpoint, rotate
from paddlenlp.checkpoint.space import check_free_space, checkpoint_bytes
from paddlenlp.checkpoint.writing import save_checkpoint
from paddlenlp.parallel.errand import first_does
from paddlenlp.trainer import restore, snapshot
from paddlenlp.trainer.best import is_better
from paddlenlp.trainer.piece_state import masters_from_weights
from paddlenlp.trainer.state import TrainerState
from paddlenlp.transformers.export import GENERATION_CONFIG, generation_config
from paddlenlp.utils.files import atomic_write_json
from paddlenlp.utils.log import logger


class CheckpointKeeper:
    """Keeps the checkpoints in `args.output_dir`. All ranks of a job call the same methods; rank 0 writes.

    Args:
        extra_files: copied into every checkpoint.

    Attributes:
        last: the newest checkpoint that this run wrote or began from.
    """

    def __init__(self, model: Any, tokenizer: Any, args: Any, extra_files: Sequence[Union[str, Path]]) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.args = args
        self.extra_files = list(extra_files)
        self.last: Optional[Path] = None
        self.stale: List[Path] = []

    def begin(self, resumed: Optional[Path]) -> None:
        """A run begins, from checkpoint `resumed` or anew; in the latter case the checkpoints that lie here are another
        run's, and go when this one has written its first."""
        if resumed is not None:
            restore.seen_by_all(resumed)
        here = checkpoint_folders(self.args.output_dir)
        self.last = resumed
        self.stale = here if resumed is None else []
        later = [] if resumed is None else [path.name for path in here if _step(path) > _step(resumed)]
        if later:
            logger.warning(
                f"Going on from {resumed}, but {self.args.output_dir} also holds {', '.join(later)}: a restart without "
                "resume_from_checkpoint takes the highest step. Remove what is not wanted."
            )

    def check_space(self, optimizer: Any) -> None:
        """Find out before training whether a checkpoint fits on the disk.

        Raises:
            UsageError: it does not; the message has the bytes needed and free.
        """
        if self.args.save_enabled:
            content = snapshot.assemble(self.model, optimizer, self.args)
            content.write(lambda: check_free_space(self.args.output_dir, checkpoint_bytes(content.tensors)))

    def save(self, state: TrainerState, optimizer: Any, lr_scheduler: Any, metrics: Optional[Dict[str, float]]) -> Path:
        """Write `checkpoint-{global_step}`, then remove those that are too many.

        Args:
            metrics: of an evaluation at this step, if there was one.

        Returns:
            The folder, on every rank.

        Raises:
            UsageError: the checkpoint cannot be written; on every rank, and what was there before is as it was.
        """
        start, folder = time.time(), Path(self.args.output_dir) / f"checkpoint-{state.global_step}"
        self._note_best(state, metrics, folder)
        content = snapshot.assemble(self.model, optimizer, self.args)
        states = snapshot.states_to_save(state, optimizer, lr_scheduler, self.args)

        def write() -> None:
            save_checkpoint(folder.parent, state.global_step, content.tensors, states, self._describe)
            logger.info(f"Saved checkpoint {folder} in {time.time() - start:.2f} s")
            self._remove_stale(folder)
            rotate(folder.parent, self.args.save_total_limit, keep=[state.best_model_checkpoint, folder])

        content.write(write)
        self.last = folder
        return folder

    def _remove_stale(self, written: Path) -> None:
        """Delete what an overwritten run left, so that a restart can't take it for this run's."""
        for folder in self.stale:
            if folder.name != written.name:
                logger.info(f"overwrite_output_dir: removing {folder} of the run that was here before")
                remove_checkpoint(folder)
        self.stale = []

    def holds(self, step: int) -> bool:
        """Whether the newest checkpoint is that of `step`."""
        return self.last is not None and self.last.name == f"checkpoint-{step}"

    def load_best(self, state: TrainerState) -> bool:
        """With `load_best_model_at_end`, give the model the weights of the best checkpoint; whether that was done."""
        if not self.args.effective_load_best_model_at_end or state.best_model_checkpoint is None:
            return False
        # By name: the output folder may have been moved since.
        folder = Path(self.args.output_dir) / Path(state.best_model_checkpoint).name
        first_does(lambda: restore.check(folder))
        restore.seen_by_all(folder)
        name = self.args.effective_metric_for_best_model
        logger.info(f"Loading the best weights: {folder}, {name} {state.best_metric}")
        restore.load_model(self.model, folder)
        masters_from_weights(self.model)
        return True

    def save_model(self, folder: Path) -> None:
        """Write weights, configuration, tokenizer and the extra files: a folder `from_pretrained` reads."""
        self.model.save_pretrained(folder)
        first_does(lambda: self._write_companions(folder))
        logger.info(f"Saved model {folder}")

    def _note_best(self, state: TrainerState, metrics: Optional[Dict[str, float]], folder: Path) -> None:
        value = (metrics or {}).get(self.args.effective_metric_for_best_model)
        if value is not None and is_better(value, state.best_metric, self.args.effective_greater_is_better):
            state.best_metric, state.best_model_checkpoint = value, str(folder)

    def _describe(self, folder: Path) -> None:
        """What `from_pretrained` needs beside the weights."""
        self.model.config.save_pretrained(folder)
        atomic_write_json(folder / GENERATION_CONFIG, generation_config(self.model), sort_keys=True)
        self._write_companions(folder)

    def _write_companions(self, folder: Path) -> None:
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(folder)
        snapshot.copy_files(self.extra_files, folder)


def _step(folder: Path) -> int:
    number = folder.name.rpartition("-")[2]
    return int(number) if number.isdigit() else 0
