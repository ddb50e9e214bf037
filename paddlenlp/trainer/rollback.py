"""Going back to a checkpoint in the middle of a run, to pass over the data that spoilt a step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, List, Optional

from paddlenlp.checkpoint.folder import checkpoint_folders, step_of
from paddlenlp.parallel.objects import from_first
from paddlenlp.trainer import restore
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.log import logger

if TYPE_CHECKING:
    from paddlenlp.trainer.trainer import Trainer

CARRIED = ("passed_over", "last_bad_step", "bad_steps_in_a_row", "max_steps")
"""What of a run's state outlives going back."""


def goal(trainer: Trainer) -> Optional[Path]:
    """The newest whole checkpoint that this run wrote or began from; None if there is none. All ranks call this.

    One that the run began from with an `ignore_load...` or `ignore_data_skip` is none of its own past.
    """
    trainer.keeper.finish()
    candidates = from_first([str(path) for path in _candidates(trainer)])
    for folder in map(Path, candidates):
        try:
            restore.check(folder)
            return folder
        except UsageError as error:
            logger.warning(f"Not going back to {folder}: {error}")
    return None


def _candidates(trainer: Trainer) -> List[Path]:
    """Newest first."""
    keeper, args, step = trainer.keeper, trainer.args, trainer.state.global_step
    stale = {folder.name for folder in keeper.stale}
    here = [path for path in checkpoint_folders(args.output_dir) if path.name not in stale]
    past = [path for path in reversed(here) if step_of(path) <= step]
    found = list(dict.fromkeys([*([keeper.last] if keeper.last else []), *past]))
    partly = args.ignore_load_lr_and_optim or args.ignore_data_skip
    foreign = trainer.began_from.resolve() if partly and trainer.began_from else None
    return [path for path in found if path.resolve() != foreign]


def go_back(trainer: Trainer, folder: Path) -> None:
    """Put weights, optimizer, learning rate, random numbers, position and history where checkpoint `folder` has them,
    and remember that the data of the step that is under way is to be passed over. All ranks call this.

    Raises:
        UsageError: the checkpoint can't be loaded.
    """
    state, batches = trainer.state, trainer.batches
    state.passed_over = [*state.passed_over, [batches.start, batches.consumed_samples]]
    restored = restore.load_state(folder, state)
    for name in CARRIED:
        setattr(restored, name, getattr(state, name))
    restore.load_model(trainer.model, folder)
    args: Any = replace(trainer.args, ignore_load_lr_and_optim=False)
    restore.load_optimizer(trainer.model, trainer.optimizer, trainer.lr_scheduler, folder, args)
    restore.load_rng(folder, args.process_index)
    vars(state).update(vars(restored))
    batches.consumed_samples = state.consumed_samples
    trainer.keeper.last = folder
    trainer.present_metrics = None
    trainer.interval.restart()
    trainer.event("on_rollback", checkpoint=folder)
