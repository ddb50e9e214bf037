"""Running the batch of a bad step again: the same samples, on the weights of a checkpoint before it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, NamedTuple, Optional, Sequence

from paddlenlp.checkpoint.folder import checkpoint_folders, step_of
from paddlenlp.parallel.objects import from_first
from paddlenlp.trainer import restore
from paddlenlp.trainer.bad_steps import BadSteps
from paddlenlp.trainer.bad_tensors import samples_digest
from paddlenlp.trainer.batches import TrainBatches, make_loader
from paddlenlp.trainer.step import StepResult, TrainStep
from paddlenlp.trainer.timers import Phases
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.log import logger

if TYPE_CHECKING:
    from paddlenlp.trainer.trainer import Trainer

INITIAL = "initial"
"""In place of a checkpoint: the weights with which the run began."""


class Replayed(NamedTuple):
    """What came of it.

    Attributes:
        result: of the step, which updated nothing.
        checkpoint: whose weights these were; None: those with which the run began.
        trained_to: after which step.
    """

    result: StepResult
    checkpoint: Optional[Path]
    trained_to: int


def replay(trainer: Trainer, record: Dict[str, Any], checkpoint: Optional[str], catch_up: bool) -> Replayed:
    """Run the batch of a bad step once more. All ranks call this; nothing is written.

    Args:
        trainer: of a model, arguments and data as the run had them; it has not been used.
        record: of the bad step.
        checkpoint: folder; INITIAL; None: the newest one before the step.
        catch_up: train from there up to the step before, so that the weights are those that the run had.

    Raises:
        UsageError: there is no such checkpoint, or the data is other data.
    """
    folder = checkpoint_for(record, trainer.args.output_dir, checkpoint)
    if folder is not None:
        restore.check(folder)
    trainer.put_back(folder)
    trainer.model.train()
    trainer.batches = TrainBatches(
        trainer.train_dataset, trainer.data_collator, trainer.args, trainer.state.consumed_samples
    )
    judge = BadSteps(trainer)
    step = TrainStep(
        trainer.model, trainer.optimizer, trainer.lr_scheduler, lambda event: None, Phases(False), judge.judge
    )
    if catch_up:
        _catch_up(trainer, step, judge, record["step"] - 1)
    result = step.look(record["step"], batch_of(trainer, record))
    return Replayed(result, folder, trainer.state.global_step)


def checkpoint_for(record: Dict[str, Any], output_dir: str, request: Optional[str]) -> Optional[Path]:
    """The checkpoint to begin from; None: the initial weights. All ranks call this, the first one decides."""
    if request is not None:
        return None if request == INITIAL else Path(request)
    here = [str(path) for path in checkpoint_folders(output_dir) if step_of(path) < record["step"]]
    before = from_first(record["checkpoint"] if record["checkpoint"] and Path(record["checkpoint"]).is_dir() else None)
    newest: Optional[str] = from_first(here[-1] if here else None)
    if before or newest:
        return Path(before or str(newest))
    if record["checkpoint"] is None:
        return None
    raise UsageError(
        f"{record['checkpoint']}, the last checkpoint before step {record['step']}, is no longer there, nor is an "
        f"older one in {output_dir}. Give another one with --checkpoint FOLDER, or --checkpoint {INITIAL} for the "
        "weights with which the run began."
    )


def _catch_up(trainer: Trainer, step: TrainStep, judge: BadSteps, last: int) -> None:
    """Train up to step `last` as the run did."""
    state, steps = trainer.state, _steps(trainer.batches)
    while state.global_step < last:
        micro_batches, number = next(steps), state.global_step + 1
        if trainer.args.skips_step(number) or judge.passes_over():
            state.global_step = number
            continue
        result = step.run(number, micro_batches)
        state.global_step = number
        if result.finding is None:
            judge.count_good(result)
        else:
            logger.info(f"Step {number} on the way is bad too, and passed over: {result.finding.reason}")


def _steps(batches: TrainBatches) -> Iterator[List[Any]]:
    """Pass after pass."""
    while True:
        yield from batches.one_pass()


def batch_of(trainer: Trainer, record: Dict[str, Any]) -> List[Any]:
    """This rank's micro-batches of the recorded samples, whatever the number of ranks.

    Raises:
        UsageError: they can't be shared out, or are not those that the step read; on all ranks.
    """
    args, dataset = trainer.args, trainer.train_dataset
    shares = [_share(ids, args.dataset_rank, args.dataset_world_size) for ids in record["sample_ids"]]
    if max(max(share) for share in shares) >= len(dataset):
        raise _other_data(f"the record has sample {max(map(max, record['sample_ids']))}, and there are {len(dataset)}")
    micro_batches = list(make_loader(dataset, shares, trainer.data_collator))
    if samples_digest(micro_batches) != record["samples_sha256"]:
        raise _other_data("under the recorded numbers there are other samples")
    return micro_batches


def _share(ids: Sequence[int], rank: int, ranks: int) -> List[int]:
    if len(ids) % ranks:
        raise UsageError(
            f"The step read micro-batches of {len(ids)} samples, which {ranks} data ranks can't share out evenly. Use "
            "as many processes as the run had, or a single one."
        )
    size = len(ids) // ranks
    return list(ids[rank * size : (rank + 1) * size])


def _other_data(how: str) -> UsageError:
    return UsageError(
        f"The data is not what the bad step read: {how}. Give the arguments of that run (run_config.json of its "
        "checkpoints has them), the ones about data, seed and max_steps above all."
    )
