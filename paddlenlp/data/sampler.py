"""Which samples each data-parallel rank reads, as a function of one integer: how many samples were consumed."""

from __future__ import annotations

from typing import Iterator, List

from paddlenlp.utils.errors import UsageError


class DistributedBatchSampler:
    """Batches of dataset indices in order, from sample `consumed_samples` of the endless stream 0, 1, 2 ... on.

    Position p of the stream is dataset index `p % dataset_len`, whatever the batch size and the number of ranks, so a
    run can go on with other values of both. One global batch is `batch_size * num_replicas` consecutive positions; rank
    r takes the r-th `batch_size` of them.

    One iteration ends at the end of the dataset: what is left there is shared out evenly (a rest smaller than the
    number of ranks is left out), or left out with `drop_last`. The next one starts where `consumed_samples` then says.

    Args:
        dataset_len: samples in the dataset.
        batch_size: samples for one rank in one batch.
        num_replicas, rank: data-parallel ranks, and which of them this is.
        consumed_samples: samples of the whole stream consumed by all ranks so far. May be assigned between iterations.

    Raises:
        UsageError: the dataset is empty, or a number is out of range.
    """

    def __init__(
        self,
        dataset_len: int,
        batch_size: int,
        *,
        num_replicas: int = 1,
        rank: int = 0,
        consumed_samples: int = 0,
        drop_last: bool = False,
    ) -> None:
        if dataset_len < 1 or batch_size < 1 or consumed_samples < 0 or not 0 <= rank < num_replicas:
            raise UsageError(
                f"No batches can be drawn: dataset of {dataset_len} samples, batch size {batch_size}, rank {rank} of "
                f"{num_replicas}, {consumed_samples} samples consumed. Expected a dataset and a batch size of at least "
                "1, consumed samples >= 0 and a rank below the number of ranks."
            )
        self.dataset_len = dataset_len
        self.batch_size = batch_size
        self.num_replicas = num_replicas
        self.rank = rank
        self.consumed_samples = consumed_samples
        self.drop_last = drop_last

    @property
    def global_batch_size(self) -> int:
        """Samples all ranks read in one batch."""
        return self.batch_size * self.num_replicas

    def _left(self) -> int:
        """Samples between the position and the end of the dataset that can be shared out evenly."""
        left = self.dataset_len - self.consumed_samples % self.dataset_len
        return left - left % (self.global_batch_size if self.drop_last else self.num_replicas)

    def __len__(self) -> int:
        """Batches of one rank up to the end of the dataset."""
        return -(-self._left() // self.global_batch_size)

    def __iter__(self) -> Iterator[List[int]]:
        position = self.consumed_samples
        end = position + self._left()
        while position < end:
            size = min(self.batch_size, (end - position) // self.num_replicas)
            first = position + self.rank * size
            yield [index % self.dataset_len for index in range(first, first + size)]
            position += size * self.num_replicas
