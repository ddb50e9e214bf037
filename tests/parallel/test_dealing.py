"""The plan of a checkpoint: every byte of every file comes from where it lies, however tensors are cut, in small blocks
too; files are balanced, and written where most of the content is."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest

from paddlenlp.parallel import dealing
from paddlenlp.parallel.catalogue import Catalogue, Source, Whole
from paddlenlp.parallel.dealing import Orders, orders_of, part_suffix, plan_files, writers
from paddlenlp.parallel.layout import Layout
from paddlenlp.parallel.mesh import Mesh


class Known(Catalogue):
    """A catalogue that no ranks had to make. `cuts`: where the pieces of a share begin, which `ranks` hold in turn."""

    def __init__(self, mesh, stem="optimizer"):
        self.mesh, self.stem, self.shares = mesh, stem, mesh.tp
        self.wholes, self.sources, self.arrays, self.parts = {}, {}, {}, {}

    def add(self, name, shape, layout=None, cuts=(), dtype="float32"):
        layout = layout or Layout()
        share = tuple(layout.share_shape(shape, self.mesh.tp))
        self.wholes[self.stem, name] = Whole(name, tuple(shape), share, dtype, layout)
        array = np.random.RandomState(len(self.arrays)).randint(0, 2**31, shape).astype(np.int32).view(np.float32)
        self.arrays[name] = array
        for place in range(self.mesh.tp if layout.axis is not None else 1):
            flat = layout.cut(array, place, self.mesh.tp).reshape(-1)
            bounds = [0, *cuts, flat.size]
            for shard, (start, stop) in enumerate(zip(bounds, bounds[1:])):
                rank = self.mesh.rank({"dp": 0, "pp": 0, "sequence": 0, "sharding": shard, "tp": place})
                parts = self.parts.setdefault(rank, [])
                self.sources.setdefault((self.stem, name), []).append(Source(rank, len(parts), place, start, stop))
                parts.append(flat[start:stop])

    def content(self, file):
        """The bytes of a planned file, put together as `rounds` does."""
        return b"".join(self.box(box) for block in file.blocks for box in block)

    def box(self, box):
        whole = np.zeros(box.shape, np.float32)
        for slab in box.slabs:
            share = np.concatenate([self.parts[take.rank][take.number][take.start : take.stop] for take in slab.takes])
            share, at = share.reshape(box.shape[0], -1, box.shape[2]), 0
            for start, stop in slab.spans:
                whole[:, start:stop] = share[:, at : at + stop - start]
                at += stop - start
        return whole.tobytes()


CUTS = {
    "whole": ((5, 7), None),
    "rows": ((8, 6), Layout(0)),
    "columns": ((6, 8), Layout(1)),
    "middle": ((3, 8, 5), Layout(1)),
    "last of three": ((3, 2, 8), Layout(2)),
    "gate and up": ((4, 24), Layout(1, (8, 16))),
    "copied key head": ((3, 16), Layout(1, (8, 4, 4), (4, 1, 1))),
    "groups": ((3, 16), Layout(1, (8, 4, 4), (4, 2, 2), 2)),
    "nothing": ((0, 8), Layout(1)),
    "a number": ((), None),
    "one": ((1,), None),
}


@pytest.mark.parametrize("most", [8, 40, 100, 1 << 25])
@pytest.mark.parametrize("tp", [1, 2, 4])
def test_every_byte_of_every_file(monkeypatch, most, tp):
    monkeypatch.setattr(dealing, "BLOCK", most)
    known = Known(Mesh(tp=tp, sharding=3))
    for name, (shape, layout) in CUTS.items():
        size = prod((layout or Layout()).share_shape(shape, tp))
        known.add(name, shape, layout, [size // 3, size // 2] if size > 2 else [])
    files = plan_files(known, known.mesh)
    assert [file.name for file in files] == [
        f"optimizer-{number:05d}-of-{3 * tp:05d}.safetensors" for number in range(1, 3 * tp + 1)
    ]
    assert sorted(name for file in files for name, _, _ in file.tensors) == sorted(CUTS)
    for file in files:
        assert known.content(file) == b"".join(known.arrays[name].tobytes() for name, _, _ in file.tensors)
        assert all(sum(box.size for box in block) <= max(most, 4) for block in file.blocks)


def test_copies_are_not_fetched_twice_and_own_ones_first():
    known = Known(Mesh(tp=2))
    known.add("value head", (4, 8), Layout(1, (8,), (1,)))
    (file,) = [file for file in plan_files(known, known.mesh) if file.tensors]
    (box,) = file.blocks[0]
    assert len(box.slabs) == 1
    for owner in (0, 1):  # a table that both ends of a pipeline hold
        known = Known(Mesh(pp=2))
        known.add("table", (4, 8))
        known.sources["optimizer", "table"].append(Source(1, 7, 0, 0, 32))
        assert known.covers(("optimizer", "table"), owner)[0][0].rank == owner


def test_bytes_are_balanced_over_those_that_hold_alike():
    known = Known(Mesh(tp=4))
    for layer in range(9):
        known.add(f"layers.{layer}.up", (16, 32), Layout(1))
        known.add(f"layers.{layer}.down", (32, 16), Layout(0))
        known.add(f"layers.{layer}.norm", (16,))
    sizes = [file.size for file in plan_files(known, known.mesh)]
    assert max(sizes) - min(sizes) <= 2 * 16 * 32 * 4


def test_a_tensor_is_written_where_most_of_it_lies():
    known = Known(Mesh(sharding=2))
    known.add("mostly first", (100,), cuts=[60])
    known.add("mostly second", (100,), cuts=[40])
    by_rank = {file.rank: [name for name, _, _ in file.tensors] for file in plan_files(known, known.mesh)}
    assert by_rank == {0: ["mostly first"], 1: ["mostly second"]}


def test_files_are_numbered_as_the_references_are():
    mesh = Mesh(dp=2, pp=2, sharding=2, tp=2)
    assert writers(mesh, "model") == [
        mesh.rank({"dp": 0, "sequence": 0, "sharding": 0, "pp": p, "tp": t}) for p in (0, 1) for t in (0, 1)
    ]
    # of the reference: sharding slowest, then pipeline, then tensor parallelism, whatever the order of the ranks
    places = [mesh.place(rank) for rank in writers(mesh, "optimizer")]
    assert [(place["sharding"], place["pp"], place["tp"]) for place in places] == [
        (shard, stage, tp) for shard in (0, 1) for stage in (0, 1) for tp in (0, 1)
    ]


@pytest.mark.parametrize(
    "mesh, rank, suffix",
    [
        (Mesh(), 0, ""),
        (Mesh(dp=2), 1, ""),
        (Mesh(tp=2), 1, "tp01"),
        (Mesh(pp=2, tp=2), 2, "tp00_pp01"),
        (Mesh(pp=2, sharding=2, tp=2), 7, "tp01_pp01_shard01"),
        (Mesh(dp=2, ep=2), 1, "moe01"),
        (Mesh(sharding=2, ep=2), 1, "shard01"),
    ],
)
def test_names_of_parts_as_they_are(mesh, rank, suffix):
    assert part_suffix(mesh, rank) == suffix


def test_parts_as_they_are_lie_flat_and_say_what_they_are():
    known = Known(Mesh(tp=2, sharding=2))
    known.add("w", (4, 6), Layout(1), cuts=[5])
    files = plan_files(known, known.mesh, {"optimizer"})
    assert [file.name for file in files] == [
        f"optimizer.tp{tp:02d}_shard{shard:02d}.safetensors" for shard in (0, 1) for tp in (0, 1)
    ]
    for file in files:
        ((name, dtype, shape),) = file.tensors
        whole, (place, start, stop) = Whole.unpack(file.parts[name][:-3]), file.parts[name][-3:]
        assert (name, dtype, shape) == ("w", "float32", (stop - start,))
        assert whole.layout == Layout(1) and whole.shape == (4, 6)
        expected = whole.layout.cut(known.arrays["w"], place, 2).reshape(-1)[start:stop]
        assert known.content(file) == expected.tobytes()


def test_orders_survive_json_and_match_each_other():
    import json

    known = Known(Mesh(tp=2, sharding=2))
    for name, (shape, layout) in CUTS.items():
        known.add(name, shape, layout)
    orders = orders_of(plan_files(known, known.mesh), 4)
    for own in orders:
        assert json.dumps(Orders.unpack(json.loads(json.dumps(own)))) == json.dumps(own)
    assert len({len(own.sends) for own in orders}) == 1
    sent = sum(take.stop - take.start for own in orders for sends in own.sends for send in sends for take in send.takes)
    kept = sum(
        take.stop - take.start
        for rank, own in enumerate(orders)
        for file in own.files
        for block in file.blocks
        for box in block
        for slab in box.slabs
        for take in slab.takes
        if take.rank == rank
    )
    assert kept > 0 and sent > 0
    assert sent + kept >= sum(array.size for array in known.arrays.values())
