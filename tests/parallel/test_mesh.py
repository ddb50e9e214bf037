"""The arithmetic of the mesh: who stands where, who shares a line, and the mesh that degrees ask for."""

from __future__ import annotations

import subprocess
import sys
from itertools import product

import numpy as np
import pytest

from paddlenlp.parallel.mesh import ORDERS, Degrees, Mesh, degree_problems, derive_mesh, divisors, either
from paddlenlp.utils.errors import UsageError

LETTERS = {
    "pp_first": ["dp", "pp", "sharding", "sequence", "tp"],
    "sharding_first": ["dp", "sharding", "pp", "sequence", "tp"],
}
SIZES = [(1, 1, 1, 1, 1), (2, 2, 2, 2, 2), (3, 1, 2, 1, 2), (1, 4, 1, 3, 1), (2, 3, 4, 1, 1)]
MESHES = [
    Mesh(dp=dp, pp=pp, sharding=sharding, tp=tp, order=order, **{kind: sequence})
    for dp, pp, sharding, sequence, tp in SIZES
    for order in ORDERS
    for kind in ("sep", "cp")
]  # fmt: skip


def grid(mesh):
    """All ranks as an array with one axis for each of the mesh's."""
    return np.arange(mesh.world).reshape([getattr(mesh, axis) for axis in LETTERS[mesh.order]])


@pytest.mark.parametrize("mesh", MESHES, ids=repr)
def test_places_are_those_of_a_row_major_array(mesh):
    for rank in range(mesh.world):
        place = mesh.place(rank)
        assert grid(mesh)[tuple(place[axis] for axis in LETTERS[mesh.order])] == rank
        assert mesh.rank(place) == rank
        assert mesh.data_rank(rank) == place["dp"] * mesh.sharding + place["sharding"]


@pytest.mark.parametrize("mesh", MESHES, ids=repr)
def test_lines_are_what_varies_along_axes_of_that_array(mesh):
    letters = LETTERS[mesh.order]
    for axes in [
        ("dp",),
        ("pp",),
        ("sharding",),
        ("sequence",),
        ("tp",),
        ("dp", "sharding"),
        ("dp", "sequence"),
        letters,
    ]:
        free = [letters.index(axis) for axis in sorted(axes, key=letters.index)]
        wanted = np.moveaxis(grid(mesh), free, range(-len(free), 0)).reshape(
            -1, int(np.prod([grid(mesh).shape[i] for i in free]))
        )
        assert sorted(mesh.lines(*axes)) == sorted(tuple(sorted(map(int, line))) for line in wanted)
        assert all(mesh.line(rank, *axes) == line for line in mesh.lines(*axes) for rank in line)
        assert [line[0] for line in mesh.lines(*axes)] == sorted(line[0] for line in mesh.lines(*axes))  # fmt: skip


@pytest.mark.parametrize(("dp", "sharding", "ep"), [(2, 4, 2), (2, 4, 4), (4, 1, 2), (6, 1, 3), (1, 6, 2), (1, 2, 1)])
def test_experts_cut_the_sharding_lines_or_else_those_of_dp(dp, sharding, ep):
    mesh = Mesh(dp=dp, sharding=sharding, pp=2, tp=2, ep=ep)
    assert mesh.expert_axis == ("sharding" if sharding > 1 else "dp")
    whole = mesh.lines(mesh.expert_axis)
    runs = [line[start : start + ep] for line in whole for start in range(0, len(line), ep)]
    assert sorted(mesh.lines("ep")) == sorted(runs)
    assert sorted(mesh.lines("ep_replica")) == sorted(line[place::ep] for line in whole for place in range(ep))
    assert mesh.lines("ep", "ep_replica") == whole


def test_the_mesh_in_words():
    assert str(Mesh()) == "1 process"
    assert str(Mesh(pp=2, sharding=2, tp=2)) == "8 processes = dp 1 x pp 2 x sharding 2 x tp 2"
    assert str(Mesh(sharding=2, pp=2, cp=3, order="sharding_first")) == "12 processes = dp 1 x sharding 2 x pp 2 x cp 3"
    assert str(Mesh(dp=4, sep=2, ep=2)) == "8 processes = dp 4 x sep 2; experts dealt out over 2 ranks of dp"


def test_thousands_of_ranks_take_no_time_to_speak_of():
    """Every rank forms the groups of all lines: the lines must not cost the square of the ranks."""
    lines = Mesh(dp=8, pp=8, sharding=8, tp=8).lines("dp", "sharding")
    assert len(lines) == 64 and all(len(line) == 64 for line in lines)


# ---- from degrees to a mesh ------------------------------------------------------------------------------------

SHORT = {
    "tp": "tensor_parallel_degree",
    "pp": "pipeline_parallel_degree",
    "sep": "sep_parallel_degree",
    "cp": "context_parallel_degree",
    "sharding": "sharding_parallel_degree",
    "ep": "expert_parallel_degree",
}


def degrees(**given):
    return Degrees(**{SHORT.get(name, name): value for name, value in given.items()})


def test_every_small_combination_is_a_mesh_or_an_error_that_says_why():
    """Brute force: where the arithmetic works out the mesh has the sizes asked for; else there is an error."""
    for world, tp, pp, sep, sharding in product((1, 2, 4, 6, 8), (-1, 1, 2, 3), (-1, 2), (-1, 2), (-1, 1, 2, 4)):
        wanted = degrees(tp=tp, pp=pp, sep=sep, sharding=sharding, sharded=True)
        fixed = max(tp, 1) * max(pp, 1) * max(sep, 1) * max(sharding, 1)
        if world % fixed:
            with pytest.raises(UsageError):
                derive_mesh(wanted, world)
            continue
        mesh = derive_mesh(wanted, world)
        assert mesh.world == world
        assert (mesh.tp, mesh.pp, mesh.sep) == (max(tp, 1), max(pp, 1), max(sep, 1))
        assert (mesh.dp, mesh.sharding) == ((1, world // fixed) if sharding == -1 else (world // fixed, sharding))


@pytest.mark.parametrize(
    ("given", "world", "mesh"),
    [
        ({}, 4, Mesh(dp=4)),
        ({"sharded": True}, 4, Mesh(sharding=4)),
        ({"sharded": True, "tp": 2}, 8, Mesh(sharding=4, tp=2)),
        ({"sharded": True, "sharding": 2, "tp": 2}, 8, Mesh(dp=2, sharding=2, tp=2)),
        ({"sharded": True, "sharding_degree": 2}, 8, Mesh(dp=4, sharding=2)),
        ({"sharded": True, "sharding_degree": 2, "sharding": 2}, 8, Mesh(dp=4, sharding=2)),
        ({"sharded": True, "sharding": 1}, 2, Mesh(dp=2)),
        ({"sharding": 1}, 2, Mesh(dp=2)),
        ({"cp": 2, "order": "sharding_first"}, 2, Mesh(cp=2, order="sharding_first")),
        ({"ep": 2}, 4, Mesh(dp=4, ep=2)),
        ({"ep": 2, "sharded": True, "sharding": 4}, 8, Mesh(dp=2, sharding=4, ep=2)),
        ({"use_expert_parallel": True, "tp": 2}, 8, Mesh(dp=4, tp=2, ep=4)),
        ({"use_expert_parallel": True, "ep": 4}, 4, Mesh(dp=4, ep=4)),
        ({"use_expert_parallel": True}, 1, Mesh()),
        ({"tp": 2, "expert_tensor_parallel_degree": 2}, 2, Mesh(tp=2)),
        ({"expert_tensor_parallel_degree": 1}, 2, Mesh(dp=2)),
    ],
)
def test_derivation(given, world, mesh):
    assert derive_mesh(degrees(**given), world) == mesh


@pytest.mark.parametrize(
    ("given", "world", "words"),
    [
        (
            {"tp": 3},
            8,
            "8 processes = tensor_parallel_degree 3 x data-parallel processes: 8 is not a multiple of 3; "
            "for tensor_parallel_degree use 1, 2, 4 or 8",
        ),
        (
            {"tp": 4, "pp": 4},
            8,
            "8 is not a multiple of 16; use tensor_parallel_degree 1 or 2, or pipeline_parallel_degree 1 or 2",
        ),
        ({"tp": 4, "pp": 4, "sep": 4}, 8, "8 is not a multiple of 64; their product may be 1, 2, 4 or 8"),
        (
            {"tp": 2, "sharded": True, "sharding": 8},
            8,
            "use tensor_parallel_degree 1, or sharding_parallel_degree 1, 2 or 4",
        ),
        ({"sharded": True, "sharding_degree": 3}, 8, "for sharding_degree use 1, 2, 4 or 8"),
        ({"tp": 4}, 2, "2 is not a multiple of 4; for tensor_parallel_degree use 1 or 2"),
        ({"tp": 2}, 1, "tensor_parallel_degree 2 asked for, and this is one process; start 2 of them"),
        ({"tp": 2, "pp": 2}, 1, "tensor_parallel_degree 2 x pipeline_parallel_degree 2 = 4 processes asked for"),
        ({"tp": 2, "pp": 2}, 1, "python -m paddle.distributed.launch --nproc_per_node 4 llm/run_pretrain.py"),
        ({"tp": 0}, 1, "tensor_parallel_degree 0 is not a number of processes; write 1"),
        ({"ep": 0}, 1, "expert_parallel_degree 0 is not a number"),
        ({"sep": 2, "cp": 2}, 4, "sep_parallel_degree 2 and context_parallel_degree 2 exclude each other"),
        ({"sharded": True, "sharding": 2, "sharding_degree": 4}, 8, "and its old name sharding_degree 4 differ"),
        ({"sharding": 2}, 2, "sharding_parallel_degree 2 needs sharding: set it to stage1, stage2 or stage3"),
        ({"sharding_degree": 2}, 2, "sharding_degree 2 needs sharding"),
        ({"tp": 2, "expert_tensor_parallel_degree": 1}, 2, "leave it out or write 2"),
        ({"ep": 3}, 4, "expert_parallel_degree 3 does not divide the 4 data-parallel processes"),
        ({"ep": 4, "sharded": True, "sharding": 2}, 4, "does not divide the 2 sharding processes, over which"),
        ({"ep": 2}, 1, "expert_parallel_degree 2 needs as many processes that read different data, and there is one"),
        ({"ep": 2, "tp": 2}, 2, "--nproc_per_node 4"),
        ({"use_expert_parallel": True, "sharded": True}, 4, "write expert_parallel_degree instead: 1, 2 or 4"),
        (
            {"use_expert_parallel": True, "ep": 2},
            4,
            "over all 4 data-parallel processes, but expert_parallel_degree is 2",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit(given, world, words):
    ((reads, text),) = degree_problems(degrees(**given), world)
    assert words in text
    assert set(reads) - {"sharding"} <= set(vars(Degrees()))
    assert all(name in text for name in reads[:1])
    with pytest.raises(UsageError):
        derive_mesh(degrees(**given), world)


def test_everything_wrong_is_reported_at_once():
    with pytest.raises(UsageError) as caught:
        derive_mesh(degrees(tp=3, pp=5, sep=2, cp=2, sharding_degree=2), 8)
    text = str(caught.value)
    for words in ("not a multiple of 3", "not a multiple of 5", "exclude each other", "needs sharding"):
        assert words in text


def test_numbers_in_words():
    assert divisors(12) == [1, 2, 3, 4, 6, 12]
    assert either([1]) == "1" and either([1, 2]) == "1 or 2" and either([1, 2, 4]) == "1, 2 or 4"


def test_the_mesh_needs_no_paddle():
    code = "import sys, paddlenlp.parallel.mesh, paddlenlp.parallel.topology; assert 'paddle' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
