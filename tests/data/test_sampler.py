"""The sampler: order as a function of one integer."""

from __future__ import annotations

import itertools

import pytest

from paddlenlp.data import DistributedBatchSampler
from paddlenlp.utils.errors import UsageError


def global_order(length, batch_size, ranks, consumed=0, batches=None, **options):
    """Indices all ranks read, in stream order."""
    samplers = [
        DistributedBatchSampler(length, batch_size, num_replicas=ranks, rank=rank, consumed_samples=consumed, **options)
        for rank in range(ranks)
    ]
    together = itertools.islice(zip(*samplers), batches)
    return [index for batch in together for share in batch for index in share]


def test_one_rank_reads_in_order_from_the_position():
    sampler = DistributedBatchSampler(10, 4, consumed_samples=3)
    assert len(sampler) == 2 and list(sampler) == [[3, 4, 5, 6], [7, 8, 9]]
    sampler.consumed_samples = 10
    assert list(sampler) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_ranks_share_each_global_batch():
    shares = [list(DistributedBatchSampler(12, 2, num_replicas=3, rank=rank)) for rank in range(3)]
    assert shares == [[[0, 1], [6, 7]], [[2, 3], [8, 9]], [[4, 5], [10, 11]]]


def test_order_does_not_depend_on_batch_size_or_ranks():
    expected = list(range(7, 7 + 240))
    for batch_size, ranks in [(1, 1), (4, 1), (3, 2), (2, 4), (1, 6)]:
        batches = 240 // (batch_size * ranks)
        assert global_order(1000, batch_size, ranks, 7, batches) == expected
        assert global_order(1000, batch_size, ranks, 3007, batches) == expected


def test_resuming_with_another_shape_goes_on_where_it_stopped():
    read = global_order(1000, 4, 2, 0, 10)
    read += global_order(1000, 6, 1, len(read), 10)
    read += global_order(1000, 1, 4, len(read), 10)
    assert read == list(range(80 + 60 + 40))


@pytest.mark.parametrize("drop_last, expected, batches", [(False, list(range(14)), 2), (True, list(range(8)), 1)])
def test_the_rest_is_shared_evenly_or_dropped(drop_last, expected, batches):
    assert global_order(15, 4, 2, drop_last=drop_last) == expected
    assert len(DistributedBatchSampler(15, 4, num_replicas=2, drop_last=drop_last)) == batches


def test_a_far_position_costs_nothing():
    sampler = DistributedBatchSampler(10**12, 2, consumed_samples=10**12 * 5 + 10**9)
    assert next(iter(sampler)) == [10**9, 10**9 + 1]


@pytest.mark.parametrize(
    "arguments",
    [(0, 1), (1, 0), (5, 1, {"rank": 1}), (5, 1, {"rank": -1}), (5, 1, {"consumed_samples": -1})],
)
def test_impossible_numbers_are_refused(arguments):
    options = arguments[2] if len(arguments) > 2 else {}
    with pytest.raises(UsageError, match="No batches can be drawn"):
        DistributedBatchSampler(*arguments[:2], **options)
