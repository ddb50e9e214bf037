"""What a rank gives to each group of ranks in one step: operations and bytes, as `parallel.group.traffic` counts them
in a run. `tests/planning/test_traffic.py` compares the two. For models without experts; all tokens count in the loss.
"""

from __future__ import annotations

from collections import defaultdict
from math import gcd
from typing import Any, Dict, Iterator, NamedTuple, Tuple

from paddlenlp.nn.cpu.loss import ROWS

from .abstract import BYTES, AbstractModel
from .layout import Layout
from .rank import Place, RankModel
from .work import Scores, StageWork, model_work


class Exchange(NamedTuple):
    """So many calls of an operation of a group, with so many bytes of this rank's input in all."""

    group: str
    operation: str
    calls: float
    bytes: float


def step_traffic(model: AbstractModel, layout: Layout, place: Place, element: int) -> Dict[str, Tuple[int, int]]:
    """ "group operation" -> (calls, bytes) of a step. Sends to pipeline neighbours are "forward send", "backward send".

    Args:
        element: bytes of an element of what flows between layers: on a CPU always 4.
    """
    rank = RankModel(model, layout, place)
    calls: Dict[str, float] = defaultdict(float)
    sizes: Dict[str, float] = defaultdict(float)
    found = [*_always(layout), *_of_micro_batches(rank, element), *_gradients(rank), *_parameters(rank)]
    for group, operation, count, size in found:
        if count:
            calls[f"{group} {operation}"] += count
            sizes[f"{group} {operation}"] += size
    return {key: (round(calls[key]), round(sizes[key])) for key in calls}


def _always(layout: Layout) -> Iterator[Exchange]:
    """The loss; the squares of the gradients' norm with the refusals; the tokens that count."""
    if layout.mesh.world > 1:
        yield Exchange("world", "all_reduce", 2, 8 + 16)
    if layout.mesh.data > 1:
        yield Exchange("data", "all_reduce", 1, 4)


def _of_micro_batches(rank: RankModel, element: int) -> Iterator[Exchange]:
    work = dict(zip((stage.name for stage in rank.model.stages), model_work(rank.model.config).stages))
    layout = rank.layout
    for stage in rank.order:
        again = layout.recomputes(stage.index) == "full" if stage.index is not None else False
        for one in (
            *_tensor(work[stage.name], layout, element, 2 if again else 1),
            *_sequence(work[stage.name], layout, element, 2 if again else 1),
        ):
            yield one._replace(calls=one.calls * layout.accumulation, bytes=one.bytes * layout.accumulation)
    yield from _pipeline(rank, element)


def _tensor(work: StageWork, layout: Layout, element: int, forwards: int) -> Iterator[Exchange]:
    """What enters and leaves cut work; see `parallel.products` and `parallel.comm`. `forwards`: 2 with recompute."""
    mesh, tokens = layout.mesh, layout.tokens
    if mesh.tp == 1:
        return
    if work.vocabulary:  # greatest logit, sum of exponentials and own logit of each token
        yield Exchange("tp", "all_gather", -(-tokens // ROWS), 12 * tokens)
    enters, leaves, again = ((len(x), tokens * element * sum(x)) for x in (work.enters, work.leaves, work.regathered))
    if not layout.sequence_parallel:
        yield Exchange("tp", "all_reduce", forwards * leaves[0] + enters[0], forwards * leaves[1] + enters[1])
        return
    yield Exchange("tp", "reduce_scatter", forwards * leaves[0] + enters[0], forwards * leaves[1] + enters[1])
    calls, size = (forwards * enters[at] + leaves[at] + again[at] for at in (0, 1))
    yield Exchange("tp", "all_gather", calls, size / mesh.tp)


def _sequence(work: StageWork, layout: Layout, element: int, forwards: int) -> Iterator[Exchange]:
    """See `nn.exchange` and `nn.ring`."""
    mesh = layout.mesh
    for scores in work.scores if mesh.sequence > 1 else ():
        heads, keys = scores.heads // mesh.tp, max(1, scores.key_heads // mesh.tp)
        if mesh.sep > 1:
            width = _exchanged(scores, heads, keys, mesh.sep)
            yield Exchange("sep", "all_to_all", 2 * (forwards + 1), (forwards + 1) * layout.tokens * width * element)
        else:
            size = (mesh.cp - 1) * layout.tokens * keys * (scores.key_width + scores.value_width)
            calls = (mesh.cp - 1) * (forwards + 2)
            yield Exchange("cp", "send", calls, size * ((forwards + 1) * element + 4))


def _exchanged(scores: Scores, heads: int, keys: int, ranks: int) -> int:
    """Features of a token in both exchanges of a forward pass: queries, keys and values, and results."""
    kept = heads // gcd(heads // ranks, heads // keys)
    widths = scores.key_width + scores.value_width
    return heads * widths + kept * widths


def _pipeline(rank: RankModel, element: int) -> Iterator[Exchange]:
    """Hidden states to the next part of the model, and their gradients to the one before; see `pipeline.Mail`."""
    layout, chunks, micro = rank.layout, len(rank.chunks), rank.layout.accumulation
    mesh = layout.mesh
    if mesh.pp == 1:
        return
    rows = layout.tokens // mesh.tp if layout.sequence_parallel else layout.tokens
    shared = mesh.tp > 1 and not layout.sequence_parallel and rows % mesh.tp == 0
    size = rows * rank.model.config.hidden_size * element // (mesh.tp if shared else 1)
    forward, backward = chunks - rank.is_last, chunks - (rank.place.pp == 0)
    yield Exchange("forward", "send", micro * forward, micro * forward * size)
    yield Exchange("backward", "send", micro * backward, micro * backward * size)
    if shared:
        yield Exchange("tp", "all_gather", micro * (forward + backward), micro * (forward + backward) * size)


def _gradients(rank: RankModel) -> Iterator[Exchange]:
    """See `ShardedGradients`."""
    layout = rank.layout
    for bucket in rank.buckets() if layout.mesh.world > 1 else ():
        kind, name = bucket.kind, "expert_" if bucket.kind.expert else ""
        size = bucket.size * (4 if kind.dtype == "float32" or layout.master_grad else BYTES[kind.dtype])
        share = size // bucket.shard.size
        replicas = int(bucket.replica.size > 1)
        if bucket.shard.size > 1:
            times = layout.accumulation if layout.stage >= 2 else 1
            yield Exchange(f"{name}sharding", "reduce_scatter", times, times * size)
        yield Exchange(f"{name}replica", "all_reduce", replicas, replicas * share)
        yield Exchange("tp", "all_reduce", int(kind.over_tp), kind.over_tp * share)
        yield Exchange("ends", "all_reduce", int(kind.over_ends), kind.over_ends * share)


def _parameters(rank: RankModel) -> Iterator[Exchange]:
    """Updated parameters come back once a step; under stage 3 whenever a stage is used, twice for each micro batch."""
    layout = rank.layout
    if layout.mesh.sharding == 1:
        return
    buckets = [bucket for bucket in rank.buckets() if bucket.shard.size > 1]
    times: Dict[int, int] = dict.fromkeys(map(id, buckets), 1)
    if layout.stage == 3:
        holder: Dict[int, Any] = {id(member.param): bucket for bucket in buckets for member in bucket.members}
        times = dict.fromkeys(times, 0)
        for stage in rank.order:
            for used in {id(holder[id(share)]) for share in rank.parameters_of(stage) if id(share) in holder}:
                times[used] += 2 * layout.accumulation
    for bucket in buckets:
        share = bucket.size * BYTES[bucket.kind.dtype] // bucket.shard.size
        name = "expert_sharding" if bucket.kind.expert else "sharding"
        yield Exchange(name, "all_gather", times[id(bucket)], times[id(bucket)] * share)
