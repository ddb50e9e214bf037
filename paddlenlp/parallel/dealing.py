"""Who writes which tensor file, and what it takes for that from whom: the plan of a checkpoint, made once by rank 0.

Names and numbers of the files are those of the reference's unified checkpoint: tp x pp files of weights, tp x pp x
sharding files of optimizer states and of master weights. Tensors are whole. Each goes to the writer that holds most of
it, among equals to the one with the fewest bytes.

The content of a file is cut into blocks, which all writers fill in lock-step (`rounds`). A block is made of boxes:
ranges of one tensor, which is seen as [lead, width, rest] with its cut axis in the middle, so that what a rank has of a
box lies together in that rank's share of the tensor.
"""

from __future__ import annotations

from math import prod
from typing import Any, Collection, Dict, Iterator, List, Mapping, NamedTuple, Sequence, Set, Tuple

from paddlenlp.utils.tensor_writer import LazyTensor, file_order, tensor_bytes

from .catalogue import Catalogue, Key, Source, Whole
from .mesh import Mesh

BLOCK = 1 << 25
"""Most bytes of a block."""


class Take(NamedTuple):
    """Elements [start, stop) of part `number` of a rank."""

    rank: int
    number: int
    start: int
    stop: int


class Slab(NamedTuple):
    """One rank's share of a box.

    Attributes:
        takes: its elements, one after the other.
        spans: where they belong along the middle axis of the box, in order.
    """

    takes: List[Take]
    spans: List[Tuple[int, int]]


class Box(NamedTuple):
    """A range of a tensor that lies together in the file.

    Attributes:
        shape: [lead, width, rest].
        item: bytes of an element.
        slabs: what it is made of.
    """

    shape: Tuple[int, int, int]
    item: int
    slabs: List[Slab]

    @property
    def size(self) -> int:
        """In bytes."""
        return prod(self.shape) * self.item


class PlannedFile(NamedTuple):
    """A tensor file.

    Attributes:
        stem: "model", "optimizer" ...
        name: of the file.
        rank: that writes it.
        tensors: (name, type, shape) of each, in the order in which they lie in it.
        blocks: the content, in order.
        parts: if each rank's parts are saved as they are: of each tensor the `Whole.pack()`, the place of the rank
            among the tensor-parallel ones, and which elements of the share of that rank it holds.
    """

    stem: str
    name: str
    rank: int
    tensors: List[Tuple[str, str, Tuple[int, ...]]]
    blocks: List[List[Box]]
    parts: Dict[str, List[Any]]

    @property
    def size(self) -> int:
        """Bytes of its tensors."""
        return sum(box.size for block in self.blocks for box in block)


def plan_files(catalogue: Catalogue, mesh: Mesh, apart: Collection[str] = ()) -> List[PlannedFile]:
    """The files of a checkpoint, in the order of stems and numbers. For rank 0, which knows the catalogue.

    Args:
        apart: stems of which each rank's parts are saved as they are (`ignore_merge_optimizer`).
    """
    files: List[PlannedFile] = []
    for stem in dict.fromkeys(stem for stem, _ in catalogue.wholes):
        files += _as_they_are(catalogue, mesh, stem) if stem in apart else _merged(catalogue, mesh, stem)
    return files


# ---- whole tensors ---------------------------------------------------------------------------------------------------


def _merged(catalogue: Catalogue, mesh: Mesh, stem: str) -> List[PlannedFile]:
    ranks = writers(mesh, stem)
    dealt = _deal(catalogue, stem, ranks)
    return [
        _numbered(catalogue, mesh, stem, rank, f"{stem}-{number:05d}-of-{len(ranks):05d}.safetensors", dealt[rank])
        for number, rank in enumerate(ranks, 1)
    ]


def writers(mesh: Mesh, stem: str) -> List[int]:
    """The ranks that write the files of `stem`, in the order of the files' numbers."""
    shards = 1 if stem == "model" else mesh.sharding
    return [
        mesh.rank({"dp": 0, "sequence": 0, "sharding": shard, "pp": stage, "tp": place})
        for shard in range(shards)
        for stage in range(mesh.pp)
        for place in range(mesh.tp)
    ]


def _deal(catalogue: Catalogue, stem: str, ranks: Sequence[int]) -> Dict[int, List[Whole]]:
    """Rank -> the tensors that it writes. The largest are dealt out first, so that the rest evens it out."""
    load = dict.fromkeys(ranks, 0)
    dealt: Dict[int, List[Whole]] = {rank: [] for rank in ranks}
    for whole in sorted(catalogue.of(stem), key=_bytes, reverse=True):
        held = dict.fromkeys(ranks, 0)
        for source in catalogue.sources[stem, whole.name]:
            if source.rank in held:
                held[source.rank] += source.stop - source.start
        most = max(held.values())
        owner = min((rank for rank in ranks if held[rank] == most), key=lambda rank: load[rank])
        load[owner] += _bytes(whole)
        dealt[owner].append(whole)
    return dealt


def _numbered(
    catalogue: Catalogue, mesh: Mesh, stem: str, rank: int, name: str, wholes: Sequence[Whole]
) -> PlannedFile:
    by_name = {whole.name: whole for whole in wholes}
    order = [by_name[found] for found in file_order({key: _lazy(whole) for key, whole in by_name.items()})]
    boxes = (box for whole in order for box in _boxes(catalogue, mesh, (stem, whole.name), rank))
    tensors = [(whole.name, whole.dtype, whole.shape) for whole in order]
    return PlannedFile(stem, name, rank, tensors, _blocks(boxes), {})


def _lazy(whole: Whole) -> LazyTensor:
    return LazyTensor(whole.shape, whole.dtype, lambda: None)


def _bytes(whole: Whole) -> int:
    return tensor_bytes(_lazy(whole))


def _blocks(boxes: Iterator[Box]) -> List[List[Box]]:
    """Boxes in a row, as many as a block takes."""
    blocks: List[List[Box]] = []
    room = 0
    for box in boxes:
        size = box.size
        if size > room:
            blocks.append([])
            room = BLOCK
        blocks[-1].append(box)
        room -= size
    return blocks


def _boxes(catalogue: Catalogue, mesh: Mesh, key: Key, owner: int) -> Iterator[Box]:
    whole, covers = catalogue.wholes[key], catalogue.covers(key, owner)
    axis = whole.layout.axis
    lead, width, rest = _seen(whole.shape, axis)
    share = _seen(whole.share, axis)[1]
    spans = [[(0, width)]] if axis is None else [_spans(whole, place, mesh.tp) for place in range(mesh.tp)]
    for (l0, l1), (w0, w1), (r0, r1) in _ranges(lead, width, rest * whole.item, rest):
        slabs = []
        for cover, own in _without_copies(covers, spans):
            inside = [(max(a, w0), min(b, w1), at - a) for a, b, at in _placed(own) if max(a, w0) < min(b, w1)]
            if inside:
                first, last = inside[0][0] + inside[0][2], inside[-1][1] + inside[-1][2]
                start = (l0 * share + first) * rest + r0
                stop = ((l1 - 1) * share + last - 1) * rest + r1
                slabs.append(Slab(_takes(cover, start, stop), [(a - w0, b - w0) for a, b, _ in inside]))
        yield Box((l1 - l0, w1 - w0, r1 - r0), whole.item, slabs)


def _seen(shape: Sequence[int], axis: Any) -> Tuple[int, int, int]:
    """A shape as [lead, width, rest]."""
    return (1, prod(shape), 1) if axis is None else (prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :]))


def _spans(whole: Whole, place: int, size: int) -> List[Tuple[int, int]]:
    assert whole.layout.axis is not None
    return [(span.start, span.stop) for span in whole.layout.spans(whole.shape[whole.layout.axis], place, size)]


def _placed(spans: Sequence[Tuple[int, int]]) -> Iterator[Tuple[int, int, int]]:
    """Each span of the whole, and where it begins in the share."""
    at = 0
    for start, stop in spans:
        yield start, stop, at
        at += stop - start


def _without_copies(
    covers: Sequence[Sequence[Source]], spans: Sequence[Sequence[Tuple[int, int]]]
) -> Iterator[Tuple[Sequence[Source], Sequence[Tuple[int, int]]]]:
    """Shares, but for those that hold nothing that the ones before do not (copies of a key head)."""
    seen: Set[Tuple[int, int]] = set()
    for cover, own in zip(covers, spans):
        if not seen.issuperset(own):
            yield cover, own
        seen.update(own)


def _ranges(lead: int, width: int, step: int, rest: int) -> Iterator[Tuple[Tuple[int, int], ...]]:
    """Consecutive boxes of at most BLOCK bytes, each of which lies together; `step` is the bytes of [1, 1, rest]."""
    if not lead * width * rest:
        return
    if width * step <= BLOCK:
        yield from (((a, b), (0, width), (0, rest)) for a, b in _cut(lead, BLOCK // (width * step)))
    elif step <= BLOCK:
        yield from (((i, i + 1), (a, b), (0, rest)) for i in range(lead) for a, b in _cut(width, BLOCK // step))
    else:
        most = BLOCK * rest // step
        yield from (
            ((i, i + 1), (j, j + 1), (a, b)) for i in range(lead) for j in range(width) for a, b in _cut(rest, most)
        )


def _cut(count: int, most: int) -> Iterator[Tuple[int, int]]:
    return ((start, min(start + most, count)) for start in range(0, count, most))


def _takes(cover: Sequence[Source], start: int, stop: int) -> List[Take]:
    """Elements [start, stop) of a share, of the sources that cover it."""
    takes, end = [], start
    for source in cover:
        if source.start <= end < source.stop and end < stop:
            until = min(stop, source.stop)
            takes.append(Take(source.rank, source.number, end - source.start, until - source.start))
            end = until
    return takes


# ---- parts as they are -----------------------------------------------------------------------------------------------


def _as_they_are(catalogue: Catalogue, mesh: Mesh, stem: str) -> List[PlannedFile]:
    held: Dict[int, Dict[str, Source]] = {}
    for whole in catalogue.of(stem):
        for source in catalogue.sources[stem, whole.name]:
            held.setdefault(source.rank, {})[whole.name] = source
    return [_own_file(catalogue, mesh, stem, rank, held[rank]) for rank in sorted(held)]


def _own_file(catalogue: Catalogue, mesh: Mesh, stem: str, rank: int, sources: Mapping[str, Source]) -> PlannedFile:
    wholes = {name: catalogue.wholes[stem, name] for name in sources}
    flat = {
        name: LazyTensor((source.stop - source.start,), wholes[name].dtype, lambda: None)
        for name, source in sources.items()
    }
    order = file_order(flat)
    boxes = (box for name in order for box in _flat_boxes(sources[name], wholes[name].item))
    parts = {name: [*wholes[name].pack(), *sources[name][2:]] for name in order}
    tensors = [(name, flat[name].dtype, flat[name].shape) for name in order]
    suffix = part_suffix(mesh, rank)
    return PlannedFile(stem, f"{stem}{suffix and '.'}{suffix}.safetensors", rank, tensors, _blocks(boxes), parts)


def _flat_boxes(source: Source, item: int) -> Iterator[Box]:
    for start, stop in _cut(source.stop - source.start, BLOCK // item):
        take = Take(source.rank, source.number, start, stop)
        yield Box((1, stop - start, 1), item, [Slab([take], [(0, stop - start)])])


def part_suffix(mesh: Mesh, rank: int) -> str:
    """What the file of a rank's own parts is called after, such as "tp00_pp01_shard00"; "" where nothing is cut.

    As in the reference, axes of size 1 are left out, and where experts are dealt out over data-parallel ranks these
    count too ("moe01").
    """
    place = mesh.place(rank)
    experts = mesh.dp if mesh.ep > 1 and mesh.expert_axis == "dp" else 1
    axes = [("tp", mesh.tp, "tp"), ("pp", mesh.pp, "pp"), ("shard", mesh.sharding, "sharding"), ("moe", experts, "dp")]
    return "_".join(f"{word}{place[axis]:02d}" for word, size, axis in axes if size > 1)


# ---- orders ----------------------------------------------------------------------------------------------------------


class Send(NamedTuple):
    """What a rank sends to a writer in one round."""

    to: int
    takes: List[Take]


class Orders(NamedTuple):
    """What one rank does.

    Attributes:
        files: those that it writes.
        sends: for each round what it sends to other ranks; as many as there are rounds.
    """

    files: List[PlannedFile]
    sends: List[List[Send]]

    @classmethod
    def unpack(cls, packed: Any) -> Orders:
        """The orders that JSON made lists of."""
        files = [
            PlannedFile(stem, name, rank, [tuple(entry) for entry in tensors], [_boxes_of(b) for b in blocks], parts)
            for stem, name, rank, tensors, blocks, parts in packed[0]
        ]
        return cls(files, [[Send(to, [Take(*take) for take in takes]) for to, takes in sends] for sends in packed[1]])


def _boxes_of(packed: Any) -> List[Box]:
    return [Box(tuple(shape), item, [_slab(*slab) for slab in slabs]) for shape, item, slabs in packed]


def _slab(takes: Any, spans: Any) -> Slab:
    return Slab([Take(*take) for take in takes], [(start, stop) for start, stop in spans])


def orders_of(files: Sequence[PlannedFile], world: int) -> List[Orders]:
    """What each rank has to do so that the files come about."""
    own = [[file for file in files if file.rank == rank] for rank in range(world)]
    blocks = [[block for file in mine for block in file.blocks] for mine in own]
    rounds = max(map(len, blocks), default=0)
    sends: List[List[List[Send]]] = [[[] for _ in range(rounds)] for _ in range(world)]
    for writer, content in enumerate(blocks):
        for number, block in enumerate(content):
            taken: Dict[int, List[Take]] = {}
            for take in (take for box in block for slab in box.slabs for take in slab.takes if take.rank != writer):
                taken.setdefault(take.rank, []).append(take)
            for rank, takes in taken.items():
                sends[rank][number].append(Send(writer, takes))
    return [Orders(mine, sent) for mine, sent in zip(own, sends)]
