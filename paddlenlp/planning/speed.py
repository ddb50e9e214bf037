"""How long a step takes: what the slowest pipeline rank computes and waits for, the bubble, the exchange of gradients
and parameters, and the update.

Exchanges overlap as in `paddlenlp.parallel`: see `Engine`. Nothing is taken for data, checkpoints or evaluation.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import Dict, List, Mapping, Optional, Tuple

from paddlenlp.parallel.mesh import Mesh
from paddlenlp.parallel.schedule import deal

from .cpu_engine import engine_on
from .hardware import Hardware
from .kernel_times import moved
from .layout import Layout
from .stage_times import Engine, StageTimes, Times, essential, stage_times
from .wire import Line, collective, lines, neighbour, shown
from .work import ModelWork

UPDATE_BYTES = 50
"""Bytes that go through memory for each element that a rank updates: gradient to float32 (6), its norm (4), its scaling
(8), Adam with master and two moments (28), the master rounded into the parameter (4)."""

STEP = 5e-3
"""Seconds of a step in which the device waits for the host: the norm, the learning rate, the log."""

OURS = Engine()

PARTS = (
    *("products", "attention", "memory", "recompute", "tensor", "experts", "sequence"),
    *("pipeline", "bubble", "gradients", "parameters", "update"),
)
"""Names of the parts of a step's time."""


@dataclass(frozen=True)
class StepTime:
    """The time of a step.

    Attributes:
        parts: seconds by name, see PARTS: of the slowest rank; exchanges count as far as nothing hides them.
        tokens: of the step, of all ranks.
        devices: ranks.
        flops_per_token: see `nn.counting`.
        peak: operations a second of a device.
    """

    parts: Dict[str, float]
    tokens: int
    devices: int
    flops_per_token: float
    peak: float

    @property
    def seconds(self) -> float:
        """Of a step."""
        return sum(self.parts.values())

    @property
    def tokens_per_second(self) -> float:
        """Per device."""
        return self.tokens / self.seconds / self.devices

    @property
    def tflops(self) -> float:
        """Per device, by the convention of `nn.counting`: 6 N + 12 L h d s a token, recomputing not counted."""
        return self.tokens_per_second * self.flops_per_token / 1e12

    @property
    def mfu(self) -> float:
        """The same as a share of the device's peak."""
        return self.tflops * 1e12 / self.peak

    @property
    def bubble(self) -> float:
        """Share of the step in which ranks of the pipeline have nothing to do."""
        return self.parts["bubble"] / self.seconds

    @property
    def losses(self) -> Dict[str, float]:
        """Shares of the step that are lost to a lack of memory (recomputing), of micro batches (the bubble), and of
        link speed (exchanges that nothing hides)."""
        links = ("tensor", "experts", "sequence", "pipeline", "gradients", "parameters")
        lost = {"memory": ("recompute",), "batch": ("bubble",), "links": links}
        return {name: sum(self.parts[part] for part in parts) / self.seconds for name, parts in lost.items()}

    def days(self, tokens: float) -> float:
        """Days to train so many tokens."""
        return tokens / (self.tokens_per_second * self.devices) / 86400

    def cost(self, tokens: float, price: float) -> float:
        """What they cost at a price for a device and hour."""
        return self.days(tokens) * 24 * self.devices * price


def step_time(work: ModelWork, layout: Layout, hw: Hardware, engine: Engine = OURS) -> StepTime:
    """The time of a step.

    Args:
        work: `model_work(config)`.
        layout: see there; sizes that don't fit the model are not looked for here.
        hw: devices and links.
        engine: whose kernels and exchanges.
    """
    ranks = _ranks(work, layout, hw, engine_on(hw, layout, engine))
    slowest = max(ranks, key=lambda rank: rank.micro)
    others = sum(rank.micro for rank in ranks) - slowest.micro
    count, hop = layout.accumulation, _hop(work, layout, hw)
    steady = max(0.0, 2 * layout.chunks * hop - slowest.micro)
    parts = {name: seconds * count for name, seconds in slowest.parts.items()}
    parts["pipeline"] = count * steady + 2 * (layout.mesh.pp * layout.chunks - 1) * hop
    parts["bubble"] = others / layout.chunks
    last = max(ranks, key=lambda rank: rank.at_end)
    parts["gradients"] = count * slowest.gradients + last.reduced
    parts["parameters"] = count * slowest.gathered + last.published
    parts["update"] = last.update + STEP
    flops = work.flops_per_token(layout.seq_length)
    return StepTime(parts, layout.global_tokens, layout.mesh.world, flops, hw.peak(layout.compute))


Kind = Tuple[int, Optional[str]]
"""The place of a stage among `ModelWork.kinds`, and at which granularity it recomputes."""

Kinds = Tuple[Tuple[Kind, int], ...]
"""How many stages of each kind a rank has."""


def rank_elements(work: ModelWork, layout: Layout) -> List[Tuple[float, float]]:
    """Parameters of the ranks of the pipeline, each kind of rank once: those of experts, and the others."""
    return [_elements(work, dict(kinds), layout) for kinds in dict.fromkeys(_kinds(work, layout))]


def _elements(work: ModelWork, counts: Mapping[Kind, int], layout: Layout) -> Tuple[float, float]:
    mesh = layout.mesh
    own = [(count, work.stages[kind].elements(mesh.tp, mesh.ep)) for (kind, _), count in counts.items()]
    return sum(count * experts for count, (experts, _) in own), sum(count * others for count, (_, others) in own)


def _ranks(work: ModelWork, layout: Layout, hw: Hardware, engine: Engine) -> List[_Rank]:
    """The ranks of the pipeline; those with equal stages are one object."""
    same, kinds = essential(layout), _kinds(work, layout)
    all_kinds = {kind for rank in set(kinds) for kind, _ in rank}
    times = {kind: stage_times(work.stages[kind[0]], same, kind[1], hw, engine) for kind in all_kinds}
    made = {rank: _Rank(work, dict(rank), times, layout, hw, engine) for rank in set(kinds)}
    return [made[rank] for rank in kinds]


class _Rank:
    """A rank of the pipeline: seconds of a micro batch by part, and what comes with each and at the end of a step."""

    def __init__(
        self,
        work: ModelWork,
        counts: Mapping[Kind, int],
        times: Mapping[Kind, StageTimes],
        layout: Layout,
        hw: Hardware,
        engine: Engine,
    ) -> None:
        self.layout, self.hw, self.engine, self.axes = layout, hw, engine, lines(layout)
        self.forward, self.backward, self.again = (
            Times(
                *(sum(counts[kind] * times[kind][way][part] for kind in counts) for part in range(len(Times._fields)))
            )
            for way in range(3)
        )
        self.experts, self.others = _elements(work, counts, layout)
        self.parts = self._parts()
        self.gradients, self.reduced = self._gradients()
        self.gathered, self.published = self._parameters()
        self.update = moved(hw, UPDATE_BYTES * self._updated())

    @property
    def micro(self) -> float:
        """Of a micro batch."""
        return sum(self.parts.values()) + self.gradients + self.gathered

    @property
    def at_end(self) -> float:
        """Of the end of a step."""
        return self.reduced + self.published + self.update

    def _parts(self) -> Dict[str, float]:
        both = zip(Times._fields, self.forward, self.backward)
        found = {name: forward + backward for name, forward, backward in both}
        elements, gradient = self.experts + self.others, self.layout.gradient_bytes
        found["memory"] += moved(self.hw, elements * (self.layout.weight_bytes + 2 * gradient))
        return {**found, "recompute": self.again.total}

    def _gradients(self) -> Tuple[float, float]:
        """Seconds with each micro batch, and at the end of a step, that sums of gradients take beside the backward pass
        (`parallel.sharding`)."""
        size, passes = self.layout.gradient_bytes, 1 if self.layout.stage else 2
        travel, rest = 0.0, 0.0
        for elements, shard, replica in self._groups():
            if shard.size > 1:
                travel += collective(self.hw, shard, elements * size)
                rest += collective(self.hw, replica, elements / shard.size * size, 2)
            else:
                travel += collective(self.hw, replica, elements * size, passes)
        behind = self.backward.computing + self.again.computing if self.engine.gradient_overlap else 0.0
        added = shown(travel, behind)
        return (added, rest) if self.layout.stage >= 2 else (0.0, added + rest)

    def _parameters(self) -> Tuple[float, float]:
        """Seconds with each micro batch (stage 3), and at the end of a step, that gathering parameters takes."""
        gather = sum(
            collective(self.hw, shard, elements * self.layout.weight_bytes) for elements, shard, _ in self._groups()
        )
        if self.layout.stage == 3:
            backward = self.backward.computing + self.again.computing
            return shown(gather, self.forward.computing) + shown(gather, backward), 0.0
        if self.engine.gather_overlap:
            gather = shown(gather, self.forward.computing)
        return 0.0, gather

    def _groups(self) -> List[Tuple[float, Line, Line]]:
        """(elements, who shares them out, who holds the same share) of experts and of the others."""
        axes, sharded = self.axes, self.layout.stage > 0
        none = Line(1, 1)
        shard, expert_shard = (axes["sharding"], axes["expert_sharding"]) if sharded else (none, none)
        return [
            (self.experts, expert_shard, axes["expert_replica"]),
            (self.others, shard, axes["replica"]),
        ]

    def _updated(self) -> float:
        return sum(elements / shard.size for elements, shard, _ in self._groups())


def recompute_of(name: str, layout: Layout) -> Optional[str]:
    """The granularity at which the stage of this name recomputes."""
    index = name.rpartition(".")[2]
    return layout.recomputes(int(index)) if index.isdigit() else None


def _hop(work: ModelWork, layout: Layout, hw: Hardware) -> float:
    """Seconds of hidden states on their way to the next pipeline rank: each tensor-parallel rank sends its share, which
    the others then gather unless each keeps its own rows."""
    if layout.mesh.pp == 1:
        return 0.0
    axes, tp = lines(layout), layout.mesh.tp
    size = layout.tokens * work.stages[0].hidden * layout.bytes
    gather = 0.0 if layout.sequence_parallel else collective(hw, axes["tp"], size)
    return neighbour(hw, axes["pp"], size / tp) + gather


def dealt(work: ModelWork, layout: Layout) -> List[List[int]]:
    """The places of the stages of each pipeline rank, as `StagedModel` deals them out."""
    size, layers = layout.mesh.pp, [name.rpartition(".")[2].isdigit() for name in work.names]
    parts = deal(work.costs, layers, size * layout.chunks)
    return [[place for part in parts[rank::size] for place in part] for rank in range(size)]


def _kinds(work: ModelWork, layout: Layout) -> Tuple[Kinds, ...]:
    """The kinds of stages of each pipeline rank."""
    policy = (layout.recompute, layout.kept_layers, layout.interval)
    return _counted(work.names, work.kinds, work.costs, layout.mesh.pp, layout.chunks, *policy)


@lru_cache(maxsize=1024)
def _counted(
    names: Tuple[str, ...],
    kinds: Tuple[int, ...],
    costs: Tuple[float, ...],
    ranks: int,
    chunks: int,
    recompute: Optional[str],
    kept: Tuple[int, ...],
    interval: int,
) -> Tuple[Kinds, ...]:
    layout = Layout(Mesh(pp=ranks), chunks=chunks, recompute=recompute, kept_layers=kept, interval=interval)
    work = ModelWork(names, (), kinds, costs, 0.0, 0.0, 0.0)
    each = [(kind, recompute_of(name, layout)) for name, kind in zip(names, kinds)]
    counts = [Counter(each[place] for place in places) for places in dealt(work, layout)]
    return tuple(tuple(sorted(count.items(), key=str)) for count in counts)
