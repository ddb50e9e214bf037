"""The training data as a stream of steps, whose position is one integer."""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterator, List, Sequence

import paddle
from paddle.io import DataLoader

from paddlenlp.data import DistributedBatchSampler
from paddlenlp.parallel import signals
from paddlenlp.parallel.failure import end_with_parent
from paddlenlp.parallel.topology import topology
from paddlenlp.trainer.undisturbed import preserved_rng
from paddlenlp.utils.errors import UsageError

Batch = Dict[str, Any]
Collate = Callable[[List[Any]], Batch]


class TrainBatches:
    """Micro-batches of each step, in the order of the dataset, pass after pass.

    Args:
        dataset: has a length and items.
        collate: makes a batch of a list of items.
        args: batch size, accumulation steps, workers, the share of this rank.
        consumed_samples: where to begin, in samples read by all ranks.

    Attributes:
        consumed_samples: position behind the last step handed out. It counts what was handed out, not what workers
            have read ahead, and does not depend on how samples are cut into batches.
        start: position before that step.
    """

    def __init__(self, dataset: Any, collate: Collate, args: Any, consumed_samples: int = 0) -> None:
        least = args.samples_per_step if args.dataloader_drop_last else args.dataset_world_size
        if len(dataset) < least:
            raise UsageError(
                f"The training set has {len(dataset)} sample(s), and a step needs at least {least}. "
                "Give more data, or lower per_device_train_batch_size or gradient_accumulation_steps."
            )
        self.dataset = dataset
        self.collate = collate
        self.args = args
        self.consumed_samples = self.start = consumed_samples

    @property
    def epoch(self) -> float:
        """Passes over the dataset so far."""
        return self.consumed_samples / len(self.dataset)

    def one_pass(self) -> Iterator[List[Batch]]:
        """The steps that are left of the present pass over the dataset, a list of micro-batches each.

        A last step without its full number of samples is smaller, or left out with `dataloader_drop_last`. The
        interleaved schedule leaves it out too where it can't share its micro-batches out evenly.

        The processes that load data start at once, as children of the thread that calls this, with which they end.
        """
        passes = self.consumed_samples // len(self.dataset)
        return self._steps(passes, self._loader(self.consumed_samples - passes * len(self.dataset)))

    def _steps(self, passes: int, batches: Iterator[Batch]) -> Iterator[List[Batch]]:
        step: List[Batch] = []
        for batch in batches:
            step.append(batch)
            if len(step) == self.args.gradient_accumulation_steps:
                self._count(step)
                yield step
                step = []
        if step and not self.args.dataloader_drop_last and len(step) % _round(self.args) == 0:
            self._count(step)
            yield step
        self.consumed_samples = (passes + 1) * len(self.dataset)

    def next_pass(self) -> None:
        """Leave out what is left of the present pass."""
        self.consumed_samples = (self.consumed_samples // len(self.dataset) + 1) * len(self.dataset)

    def _loader(self, position: int) -> Iterator[Batch]:
        args = self.args
        sampler = DistributedBatchSampler(
            len(self.dataset),
            args.per_device_train_batch_size,
            num_replicas=args.dataset_world_size,
            rank=args.dataset_rank,
            consumed_samples=position,
            drop_last=args.dataloader_drop_last,
        )
        return make_loader(self.dataset, sampler, self.collate, args.dataloader_num_workers)

    def sample_ids(self, step: Sequence[Batch]) -> List[List[int]]:
        """What all ranks together read in each micro-batch of the step handed out last, as indices of the dataset: the
        first rank's samples, then the second one's ..."""
        ids, first = [], self.start % len(self.dataset)
        for batch in step:
            count = samples_of([batch]) * self.args.dataset_world_size
            ids.append(list(range(first, first + count)))
            first += count
        return ids

    def _count(self, step: List[Batch]) -> None:
        self.start = self.consumed_samples
        self.consumed_samples += samples_of(step) * self.args.dataset_world_size


def _round(args: Any) -> int:
    """The number of micro-batches of a step is a multiple of this."""
    return args.mesh.pp if args.pipeline_chunks > 1 else 1


def make_loader(dataset: Any, sampler: Any, collate: Any, workers: int = 0) -> Iterator[Batch]:
    """Iterator over the batches of `sampler`; making it leaves the random number generators as they are."""
    with preserved_rng():
        loader = DataLoader(
            dataset,
            batch_sampler=sampler,
            collate_fn=collate,
            num_workers=workers,
            # Token ids are few bytes, and what is on its way in /dev/shm stays there when the processes are killed.
            use_shared_memory=False,
            worker_init_fn=_prepare_worker,
        )
        return iter(loader)


def _prepare_worker(worker: int) -> None:
    """Have this worker end with the training process and not before.

    The kernel ends it when the training process is killed; Paddle's workers wait for ever otherwise.
    """
    signals.leave_to_parent()
    end_with_parent()


def samples_of(batches: Sequence[Batch]) -> int:
    """Samples in a list of batches."""
    return sum(batch["input_ids"].shape[0] for batch in batches)


def real_tokens_of(batches: Sequence[Batch], padding: int) -> int:
    """Input tokens other than `padding` in the lists of batches of all ranks that read different samples."""
    own = sum(int((batch["input_ids"] != padding).sum()) for batch in batches)
    return int(topology().data.group.all_reduce(paddle.to_tensor([own], "int64")).wait()[0])


def tokens_of(batches: Sequence[Batch]) -> int:
    """Input tokens in a list of batches."""
    return sum(batch["input_ids"].shape[0] * batch["input_ids"].shape[1] for batch in batches)
