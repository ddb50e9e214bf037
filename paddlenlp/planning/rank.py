"""What one rank of a layout holds of a model: its parameters, and the buckets in which their gradients travel."""

from __future__ import annotations

from itertools import groupby
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

from paddlenlp.nn.ahead import Ahead
from paddlenlp.nn.head import LMHead
from paddlenlp.parallel.buckets import Packing, pack
from paddlenlp.parallel.mesh import Mesh
from paddlenlp.parallel.topology import Axis, Topology, standing_in

from .abstract import BYTES, AbstractModel, AbstractStage, Weight
from .layout import Layout


class Place(NamedTuple):
    """Where a rank stands on the axes that decide what it holds."""

    pp: int = 0
    tp: int = 0
    sharding: int = 0
    dp: int = 0


def seen_from(mesh: Mesh, place: Place, sequence_parallel: bool = False) -> Topology:
    """The sizes of the mesh from this place. Nobody can be reached: the groups are of one rank."""
    sharded = mesh.expert_axis == "sharding"
    line, at = (mesh.sharding, place.sharding) if sharded else (mesh.dp, place.dp)
    replica_of_expert, ep_rank = divmod(at, mesh.ep)
    runs = Axis(line // mesh.ep, replica_of_expert)
    replica = Axis(mesh.dp * mesh.sequence)
    ends = Axis(2, int(place.pp > 0)) if mesh.pp > 1 and place.pp in (0, mesh.pp - 1) else Axis()
    return Topology(
        mesh=mesh,
        world=Axis(mesh.world),
        dp=Axis(mesh.dp, place.dp),
        pp=Axis(mesh.pp, place.pp),
        sharding=Axis(mesh.sharding, place.sharding),
        sep=Axis(mesh.sep),
        cp=Axis(mesh.cp),
        tp=Axis(mesh.tp, place.tp),
        sequence=Axis(mesh.sequence),
        data=Axis(mesh.data),
        replica=replica,
        ep=Axis(mesh.ep, ep_rank),
        expert_sharding=runs if sharded else Axis(mesh.sharding, place.sharding),
        expert_replica=replica if sharded else Axis(runs.size * mesh.sequence),
        ends=ends,
        sequence_parallel=sequence_parallel and mesh.tp > 1,
    )


class Share:
    """A parameter of the rank, as far as `Packing` asks: it has a size and no elements."""

    def __init__(self, name: str, weight: Weight, layout: Layout, tied_ends: bool = False) -> None:
        self.name, self.size = name, weight.share(layout.mesh.tp)
        self.dtype = weight.dtype or layout.dtype
        self.partial_grad, self.expert = weight.partial_grad, weight.experts > 0 and layout.mesh.ep > 1
        self.stop_gradient, self.tied_ends = not weight.trained, tied_ends
        self.copies = 1

    def element_size(self) -> int:
        """Bytes."""
        return BYTES[self.dtype]

    @property
    def bytes(self) -> int:
        """Of all its elements."""
        return self.size * self.element_size()


class RankModel:
    """A model as a rank holds it.

    Args:
        model: the whole one.
        layout: how it is spread.
        place: of the rank.

    Attributes:
        chunks: the stages of each of its chunks.
        order: all of them.
        topology: what the rank sees.
    """

    def __init__(self, model: AbstractModel, layout: Layout, place: Place) -> None:
        mesh = layout.mesh
        self.model, self.layout, self.place = model, layout, place
        self.topology = seen_from(mesh, place, layout.sequence_parallel)
        self.chunks = model.chunks(mesh.pp, layout.chunks if mesh.pp > 1 else 1)[place.pp]
        self.order: List[AbstractStage] = [stage for chunk in self.chunks for stage in chunk]
        self._held = {stage.name: list(self._shares(stage)) for stage in self.order}
        self._table = self._find_table()

    @property
    def is_last(self) -> bool:
        """Whether it has the head."""
        return self.place.pp == self.layout.mesh.pp - 1

    def parameters_of(self, stage: AbstractStage) -> List[Share]:
        """What a stage computes with, as in `StagedModel`."""
        return [*self._held[stage.name], *self._borrowed(stage)]

    def named_parameters(self) -> Iterator[Tuple[str, Share]]:
        """All parameters, each once."""
        held = [share for stage in self.order for share in self._held[stage.name]]
        extra = [] if self._table is None or self._table in held else [self._table]
        return ((share.name, share) for share in [*held, *extra])

    def buckets(self) -> List[Packing]:
        """The trained parameters as `ShardedGradients` packs them."""
        by_stage = self.layout.stage >= 2 or self.layout.mesh.pp > 1
        with standing_in(self.topology):
            return pack(self, self.layout.bucket_bytes, by_stage, Packing)

    def _shares(self, stage: AbstractStage) -> Iterator[Share]:
        """Those of the stage itself; of experts as many as the rank has, one after the other."""
        mesh = self.layout.mesh
        for is_expert, weights in groupby(stage.weights, lambda weight: weight.experts > 0):
            alike = list(weights)
            own = alike[0].experts // mesh.ep if is_expert else 1
            first = own * self.topology.ep.rank
            for number in range(first, first + own):
                for weight in alike:
                    name = weight.name.replace("experts.0.", f"experts.{number}.") if is_expert else weight.name
                    tied_ends = mesh.pp > 1 and self.model.tied and stage is self.model.stages[0]
                    yield Share(f"{stage.name}.{name}", weight, self.layout, tied_ends and weight is self.model.table)

    def _find_table(self) -> Optional[Share]:
        """The token table of what is behind the layers: the rank's own, or a copy."""
        if not (self.model.tied and self.is_last):
            return None
        first, weight = self.model.stages[0], self.model.table
        name = f"{first.name}.{weight.name}"
        if first in self.order:
            return next(share for share in self._held[first.name] if share.name == name)
        return Share(name, weight, self.layout, tied_ends=True)

    def _borrowed(self, stage: AbstractStage) -> List[Share]:
        table, head = self._table, self.model.stages[-1]
        if isinstance(stage.layer, LMHead):
            return [table] if table is not None and stage.layer.tied else []
        if isinstance(stage.layer, Ahead) and table is not None:
            return [table, *(self._held[head.name] or [table])]
        return []


class State(NamedTuple):
    """Bytes of a rank's parameters, gradients and optimizer state.

    Attributes:
        parameters: that are always there. Under sharding stage 3 the rank's share.
        gathered: at most at once of other ranks' parameters, under stage 3.
        summed: gradients kept between two micro batches.
        whole: gradients when the backward pass of the last micro batch ends, or is in its midst, at most.
        final: gradients when the optimizer updates.
        masters: float32 copies of low-precision parameters.
        moments: of the optimizer.
        on_host: of masters and moments, those in host memory (offload).
        exchange: of buckets on their way while updated parameters are gathered.
        piece: the float32 gradient of the largest piece, in the update.
    """

    parameters: int
    gathered: int
    summed: int
    whole: int
    final: int
    masters: int
    moments: int
    on_host: int
    exchange: int
    piece: int


def state_of(rank: RankModel) -> State:
    """What the rank holds beside activations, exactly as `WholeGradients` or `ShardedGradients` allocate it."""
    return _alone(rank) if rank.layout.mesh.world == 1 else _sharded(rank)


def _alone(rank: RankModel) -> State:
    layout = rank.layout
    shares = [share for _, share in rank.named_parameters()]
    trained = [share for share in shares if not share.stop_gradient]
    low = [share for share in trained if share.dtype != "float32"]
    gradients = sum(share.size * _gradient_bytes(share.dtype, layout) for share in trained)
    copied = max((share.size for share in low), default=0)
    # Those of a backward pass are in the dtype of the parameters until it is over.
    moved = sum(share.bytes for share in low) if layout.master_grad else 0
    return State(
        parameters=sum(share.bytes for share in shares),
        gathered=0,
        summed=gradients,
        whole=gradients + moved,
        final=gradients,
        masters=4 * sum(share.size for share in low),
        moments=8 * sum(share.size for share in trained),
        on_host=0,
        exchange=0,
        piece=4 * copied if not layout.master_grad else 0,
    )


def _gradient_bytes(dtype: str, layout: Layout) -> int:
    return 4 if dtype == "float32" or layout.master_grad else BYTES[dtype]


def _sharded(rank: RankModel) -> State:
    layout, buckets = rank.layout, rank.buckets()
    frozen = sum(share.bytes for _, share in rank.named_parameters() if share.stop_gradient)
    flat = [bucket.size * BYTES[bucket.kind.dtype] for bucket in buckets]
    own = [size // bucket.shard.size for size, bucket in zip(flat, buckets)]
    kept = own if layout.stage == 3 else flat
    low = [bucket for bucket in buckets if bucket.kind.dtype != "float32"]
    parts = [(bucket, stop - start) for bucket in buckets for _, start, stop in bucket.parts()]
    masters = 4 * sum(bucket.size // bucket.shard.size for bucket in low if any(bucket.parts()))
    moments = 8 * sum(size for _, size in parts)
    summed, whole, final = _gradients(layout, buckets)
    widened = [size for bucket, size in parts if _gradient_bytes(bucket.kind.dtype, layout) < 4]
    shared = sorted((size for size, bucket in zip(flat, buckets) if bucket.shard.size > 1), reverse=True)
    return State(
        parameters=frozen + sum(kept),
        gathered=_gathered(rank, buckets) if layout.stage == 3 else 0,
        summed=summed,
        whole=whole,
        final=final,
        masters=masters,
        moments=moments,
        on_host=masters + moments if layout.offload else 0,
        exchange=sum(shared[:2]) if layout.stage in (1, 2) else 0,
        piece=4 * max(widened, default=0),
    )


def _gradients(layout: Layout, buckets: List[Packing]) -> Tuple[int, int, int]:
    """Bytes between micro batches, at most in the last backward pass, and when all sums are there."""
    summed = final = travelling = 0
    of_stage: Dict[int, int] = {}
    for bucket in buckets:
        size = bucket.size * _gradient_bytes(bucket.kind.dtype, layout)
        share = size // bucket.shard.size
        final += share
        leaves = layout.stage >= 2 and bucket.shard.size > 1
        summed += share if leaves else size
        of_stage[bucket.stage] = of_stage.get(bucket.stage, 0) + (size if leaves else 0)
    stages = [of_stage[stage] for stage in sorted(of_stage)]
    # A stage's buckets are waited for when the backward pass is through with the next stage but one.
    travelling = max((sum(stages[at : at + 2]) for at in range(len(stages))), default=0)
    return summed, summed + travelling, final


def _gathered(rank: RankModel, buckets: List[Packing]) -> int:
    """Most bytes of gathered parameters: in a backward pass those of the stage at hand, the one behind it, whose last
    operations may be queued, and the one that is fetched ahead."""
    holder = {id(member.param): bucket for bucket in buckets for member in bucket.members}
    needs = [
        {id(holder[id(share)]): holder[id(share)] for share in rank.parameters_of(stage) if not share.stop_gradient}
        for stage in rank.order
    ]
    most = 0
    for at in range(len(needs)):
        together = {key: bucket for need in needs[at : at + 3] for key, bucket in need.items()}
        sizes = [bucket.size * BYTES[bucket.kind.dtype] for bucket in together.values() if bucket.shard.size > 1]
        most = max(most, sum(sizes))
    return most
