"""Which key heads go where when ranks swap shares of the sequence for shares of the heads.

The exchange itself runs in tests/parallel/test_sequence.py.
"""

from __future__ import annotations

import paddle
import pytest

from paddlenlp.nn.exchange import _key_heads, to_heads, to_sequence
from paddlenlp.utils.errors import UsageError


@pytest.mark.parametrize(
    ("heads", "key_heads", "ranks", "expected"),
    [
        (8, 8, 4, [0, 1, 2, 3, 4, 5, 6, 7]),
        (8, 4, 2, [0, 1, 2, 3]),
        (8, 2, 4, [0, 0, 1, 1]),
        (8, 1, 4, [0, 0, 0, 0]),
        (12, 3, 2, [0, 0, 1, 1, 2, 2]),
        (12, 4, 6, [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]),
    ],
)
def test_each_rank_gets_the_key_heads_its_queries_read(heads, key_heads, ranks, expected):
    found = _key_heads(heads, key_heads, ranks)
    assert found == expected
    readers = heads // len(found)
    assert all(found[head // readers] == head // (heads // key_heads) for head in range(heads))
    assert len(found) % ranks == 0


def test_heads_that_cannot_be_shared_are_refused():
    with pytest.raises(UsageError, match="sep_parallel_degree=4 can't share 6 attention heads.*divisor of 6"):
        _key_heads(6, 2, 4)


def test_one_process_moves_nothing():
    q, k = paddle.zeros([1, 2, 4, 2]), paddle.zeros([1, 2, 2, 2])
    assert to_sequence(q) is q and to_heads(q, k, k)[0] is q
