"""The mesh as each rank sees it: every rank forms all groups in the same order, and finds itself in the right ones."""

from __future__ import annotations

from importlib import import_module

import pytest

from paddlenlp.parallel import Axis, Topology, init_topology, topology
from paddlenlp.parallel.group import SoloGroup
from paddlenlp.parallel.mesh import Mesh
from paddlenlp.trainer import PreTrainingArguments
from paddlenlp.utils.errors import UsageError

module = import_module("paddlenlp.parallel.topology")

MESHES = [
    Mesh(dp=2, pp=2, sharding=2, sep=2, tp=2),
    Mesh(dp=2, pp=3, sharding=2, cp=2, order="sharding_first"),
    Mesh(dp=4, tp=2, ep=2),
    Mesh(dp=2, sharding=4, tp=2, ep=2),
    Mesh(pp=4),
    Mesh(dp=3),
]


class Formed(SoloGroup):
    """A group that only says who is in it."""

    made = []

    def __init__(self, name, ranks, rank):
        super().__init__(name, tuple(ranks))
        self.rank, self.size = rank, len(ranks)
        Formed.made.append((name, tuple(ranks)))


@pytest.fixture
def seen(monkeypatch):
    """mesh -> the topology of every rank."""
    before = topology()
    monkeypatch.setattr(module, "_group_maker", lambda: Formed)

    def build(mesh, **options):
        found = []
        for rank in range(mesh.world):
            Formed.made = []
            found.append((module.set_topology(mesh, rank, **options), Formed.made))
        return found

    yield build
    module._topology = before


@pytest.mark.parametrize("mesh", MESHES, ids=repr)
def test_all_ranks_form_the_same_groups_in_the_same_order(seen, mesh):
    orders = [made for _, made in seen(mesh)]
    assert all(order == orders[0] for order in orders)
    assert all(len(ranks) > 1 and list(ranks) == sorted(ranks) for _, ranks in orders[0])


AXES = {
    "world": ("dp", "pp", "sharding", "sequence", "tp"),
    "dp": ("dp",),
    "pp": ("pp",),
    "sharding": ("sharding",),
    "sequence": ("sequence",),
    "tp": ("tp",),
    "data": ("dp", "sharding"),
    "replica": ("dp", "sequence"),
    "ep": ("ep",),
}


@pytest.mark.parametrize("mesh", MESHES, ids=repr)
def test_axes(seen, mesh):
    for rank, (found, _) in enumerate(seen(mesh)):
        for name, axes in AXES.items():
            axis = getattr(found, name)
            assert axis.ranks == mesh.line(rank, *axes), name
            assert axis.size == len(axis.ranks) and axis.ranks[axis.rank] == rank
        assert (found.sep.size, found.cp.size) == (mesh.sep, mesh.cp)
        assert found.data.rank == mesh.data_rank(rank)


@pytest.mark.parametrize("mesh", MESHES, ids=repr)
def test_every_rank_that_holds_an_element_is_in_replica_or_shares_it_by_sharding(seen, mesh):
    """For an expert's parameter too: ep, expert_sharding and expert_replica together are dp, sharding and sequence."""
    for rank, (found, _) in enumerate(seen(mesh)):
        together = set(mesh.line(rank, "dp", "sharding", "sequence"))
        assert {other for one in found.sharding.ranks for other in mesh.line(one, "dp", "sequence")} == together
        assert found.sharding.size * found.replica.size == len(together)
        sizes = (found.ep.size, found.expert_sharding.size, found.expert_replica.size)
        assert sizes[0] * sizes[1] * sizes[2] == len(together)
        same = set(found.expert_sharding.ranks) | set(found.expert_replica.ranks)
        assert all(mesh.line(other, "ep").index(other) == found.ep.rank for other in same)


@pytest.mark.parametrize("mesh", MESHES, ids=repr)
def test_ends_and_links_of_a_pipeline(seen, mesh):
    for rank, (found, _) in enumerate(seen(mesh)):
        line = mesh.line(rank, "pp")
        place = line.index(rank)
        is_end = mesh.pp > 1 and place in (0, mesh.pp - 1)
        assert found.ends.size == (2 if is_end else 1)
        if is_end:
            assert found.ends.ranks == (line[0], line[-1])
        if mesh.pp == 1:
            assert found.links == {}
            continue
        after, before = line[(place + 1) % mesh.pp], line[place - 1]
        partner = {"forward_out": after, "forward_in": before, "backward_out": before, "backward_in": after}
        assert {name: set(group.ranks) - {rank} for name, group in found.links.items()} == {
            name: {other} for name, other in partner.items()
        }
        assert len({id(group) for group in found.links.values()}) == 4


def test_sequence_parallel_needs_tensor_parallel(seen):
    assert not seen(Mesh(dp=2), sequence_parallel=True)[0][0].sequence_parallel
    assert seen(Mesh(tp=2), sequence_parallel=True)[0][0].sequence_parallel
    assert not seen(Mesh(tp=2), parallel_output=False)[0][0].parallel_output


def test_from_arguments(seen, monkeypatch):
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "8")
    monkeypatch.setenv("PADDLE_TRAINER_ID", "5")
    args = PreTrainingArguments("out", tensor_parallel_degree=2, sequence_parallel=True, tensor_parallel_output=False)
    found = init_topology(args)
    assert found is topology() and found.mesh == Mesh(dp=4, tp=2)
    assert (found.world.rank, found.dp.rank, found.tp.rank) == (5, 2, 1)
    assert found.sequence_parallel and not found.parallel_output
    with pytest.raises(UsageError, match="not a multiple of 3"):
        init_topology(PreTrainingArguments("out", tensor_parallel_degree=3))


def test_one_process_is_first_and_last_on_every_axis(seen):
    found = init_topology(PreTrainingArguments("out"))
    names = [name for name, value in vars(found).items() if isinstance(value, Axis)]
    assert len(names) == 14
    for name in names:
        axis = getattr(found, name)
        assert (axis.size, axis.rank, axis.ranks) == (1, 0, (0,)) and axis.is_first and axis.is_last


def test_before_anything_is_said_there_is_one_process(monkeypatch):
    monkeypatch.setattr(module, "_topology", None)
    assert topology() is topology()
    assert isinstance(topology(), Topology) and topology().world.size == 1


def test_ends_of_an_axis():
    assert [(Axis(3, rank).is_first, Axis(3, rank).is_last) for rank in range(3)] == [
        (True, False),
        (False, False),
        (False, True),
    ]
