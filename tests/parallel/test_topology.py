"""The mesh of one process."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from paddlenlp.parallel import Axis, init_topology, topology
from paddlenlp.parallel.topology import DEGREES
from paddlenlp.utils.errors import UsageError


def test_one_process_is_first_and_last_on_every_axis():
    found = init_topology(SimpleNamespace(tensor_parallel_degree=1, pipeline_parallel_degree=-1))
    assert found is topology()
    for axis in (found.dp, found.pp, found.sharding, found.sep, found.cp, found.ep, found.tp):
        assert (axis.size, axis.rank) == (1, 0) and axis.is_first and axis.is_last


@pytest.mark.parametrize("flag", DEGREES.values())
def test_a_degree_above_one_is_refused_by_name(flag):
    with pytest.raises(UsageError, match=f"{flag}=2"):
        init_topology(SimpleNamespace(**{flag: 2}))


def test_ends_of_an_axis():
    assert [(Axis(3, rank).is_first, Axis(3, rank).is_last) for rank in range(3)] == [
        (True, False),
        (False, False),
        (False, True),
    ]
