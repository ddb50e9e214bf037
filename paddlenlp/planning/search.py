"""Which layouts of a model on so many devices are the fastest of those that fit."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import product
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

from paddlenlp.parallel.mesh import Mesh, divisors
from paddlenlp.utils.errors import UsageError

from .abstract import AbstractModel, abstract_model
from .activations import makes_mask, stage_kept, view_of
from .hardware import Hardware
from .layout import Layout
from .memory import FRAGMENTATION, RESERVED, needed_within
from .speed import OURS, StepTime, rank_elements, step_time
from .stage_times import Engine
from .work import ModelWork, model_work

MICRO_BATCHES = (1, 2, 4, 8)
RECOMPUTE: Tuple[Optional[str], ...] = (None, "core_attn", "full_attn", "full")
LONG = 32768
"""Tokens of a sequence from which on ranks may share one."""

MOST_PARTS = 128
"""Parts of a model that are tried: dealing it out to more takes longer than the rest of the search."""

Memory = Callable[[Layout], float]
"""Layout -> bytes that its fullest rank needs; infinity will do for more than there is room for."""


@dataclass(frozen=True)
class Found:
    """A layout, its speed, and the bytes of its fullest rank."""

    layout: Layout
    time: StepTime
    bytes: float


@dataclass(frozen=True)
class Wanted:
    """What is looked for.

    Attributes:
        devices: how many there are.
        global_batch: sequences of a step.
        seq_length: tokens of a sequence.
        dtype: in which parameters are stored and products computed.
        best: how many layouts to find.
    """

    devices: int
    global_batch: int
    seq_length: int
    dtype: str = "bfloat16"
    best: int = 5


def search(config: Any, hw: Hardware, wanted: Wanted, engine: Engine = OURS) -> List[Found]:
    """The fastest layouts that fit, fastest first; one for each mesh.

    Raises:
        UsageError: no layout keeps the global batch, or none fits.
    """
    model, work = abstract_model(config), model_work(config)
    room, estimate = hw.memory_gib * 2**30, _Estimate(model, work)
    possible = [layout for layout in layouts(config, work, hw, wanted) if estimate.bytes(layout) < room]
    timed = [(step_time(work, layout, hw, engine), layout) for layout in possible]
    timed.sort(key=lambda pair: pair[0].seconds)
    found = _fitting(timed, lambda layout: needed_within(room, model, layout), room, wanted.best)
    if not found:
        raise UsageError(_nothing(wanted, hw, bool(possible)))
    return found


def _fitting(timed: List[Tuple[StepTime, Layout]], memory: Memory, room: float, best: int) -> List[Found]:
    """The first that fit. Where one does not, none like it with larger micro batches is asked about."""
    found: Dict[Mesh, Found] = {}
    too_big: Dict[Layout, int] = {}
    for time, layout in timed:
        shape, mesh = layout.with_(micro_batch=1, accumulation=1), layout.mesh
        if mesh in found or layout.micro_batch >= too_big.get(shape, 1 << 30):
            continue
        need = memory(layout)
        if need > room:
            too_big[shape] = layout.micro_batch
            continue
        found[mesh] = Found(layout, time, need)
        if len(found) == best:
            break
    return list(found.values())


def layouts(config: Any, work: ModelWork, hw: Hardware, wanted: Wanted) -> Iterator[Layout]:
    """All that are tried. Sharding takes every rank that is not needed for something else."""
    depth = sum(stage.kind == "layer" for stage in work.stages)
    sizes = product(_tensor_degrees(config, hw, wanted), _pipeline_degrees(depth, wanted), _sequence_degrees(wanted))
    for tp, pp, cp in sizes:
        if wanted.devices % (tp * pp * cp):
            continue
        data = wanted.devices // (tp * pp * cp)
        for ep in _expert_degrees(work, data):
            mesh = Mesh(pp=pp, sharding=data, cp=cp, tp=tp, ep=ep)
            yield from _schedules(mesh, depth, work, wanted)


def _schedules(mesh: Mesh, depth: int, work: ModelWork, wanted: Wanted) -> Iterator[Layout]:
    """The ways to run a step on `mesh`."""
    stored = mesh.cp == 1 and any(scores.biased for stage in work.stages for scores in stage.scores)
    levels = (1, 2, 3) if mesh.sharding > 1 else (0,)
    for micro, chunks, stage, recompute in product(MICRO_BATCHES, _chunks(mesh.pp, depth), levels, RECOMPUTE):
        count, rest = divmod(wanted.global_batch, mesh.data * micro)
        if rest or not count or (chunks > 1 and count % mesh.pp):
            continue
        if recompute == "core_attn" and not stored:  # flash attention keeps no scores
            continue
        yield Layout(
            mesh=mesh,
            chunks=chunks,
            stage=stage,
            micro_batch=micro,
            accumulation=count,
            seq_length=wanted.seq_length,
            sequence_parallel=mesh.tp > 1,
            recompute=recompute,
            dtype=wanted.dtype,
            compute=wanted.dtype,
        )


def _tensor_degrees(config: Any, hw: Hardware, wanted: Wanted) -> List[int]:
    """Within a node; heads and vocabulary are dealt out equally."""
    most = min(hw.devices_per_node, wanted.devices)
    return [
        size
        for size in (1, 2, 4, 8, 16)
        if size <= most and config.num_attention_heads % size == 0 and config.vocab_size % size == 0
    ]


def _pipeline_degrees(depth: int, wanted: Wanted) -> List[int]:
    return [size for size in divisors(wanted.devices) if size <= min(depth, 64)]


def _sequence_degrees(wanted: Wanted) -> List[int]:
    return [1] if wanted.seq_length < LONG else [size for size in (1, 2, 4, 8, 16) if wanted.devices % size == 0]


def _expert_degrees(work: ModelWork, data: int) -> List[int]:
    experts = max((matrix.copies for stage in work.stages for matrix in stage.matrices), default=1)
    return [size for size in divisors(data) if experts % size == 0]


def _chunks(pp: int, depth: int) -> List[int]:
    """Parts of a pipeline rank that are tried: one, two, and as many as there are layers for."""
    if pp == 1:
        return [1]
    return sorted({chunks for chunks in (1, 2, depth // pp) if chunks and pp * chunks <= min(depth, MOST_PARTS)})


class _Estimate:
    """About the memory of layouts: their state, and what the layers keep of the micro batches that are under way on the
    first rank. For leaving out what can't fit, which are most layouts, without planning their memory."""

    def __init__(self, model: AbstractModel, work: ModelWork) -> None:
        self._model, self._work = model, work
        self._masked = makes_mask(model.family)
        self._kept: Dict[Any, float] = {}

    def bytes(self, layout: Layout) -> float:
        """Somewhat less than `RankMemory.needed`."""
        ranks = layout.mesh.pp
        ahead = (ranks - 1) / (ranks * layout.chunks) if layout.chunks > 1 else 0.0
        under_way = min(1.0 + ahead, layout.accumulation / ranks)
        kept = under_way * self._layers(layout)
        return state_bytes(self._work, layout) + (1 + FRAGMENTATION) * kept + RESERVED

    def _layers(self, layout: Layout) -> float:
        """What all layers keep of one micro batch."""
        mesh = layout.mesh
        key = mesh.tp, mesh.sequence, layout.micro_batch, layout.recompute, layout.sequence_parallel
        if key not in self._kept:
            view = view_of(layout, self._model.config, "gpu", self._masked)
            layers = Counter(stage.layer for stage in self._model.stages if stage.index is not None)
            first = {stage.layer: stage for stage in reversed(self._model.stages)}
            kept = {layer: sum(stage_kept(first[layer], layout, view).parts.values()) for layer in layers}
            self._kept[key] = sum(count * kept[layer] for layer, count in layers.items())
        return self._kept[key]


def state_bytes(work: ModelWork, layout: Layout) -> float:
    """Bytes of parameters, gradients and optimizer state on the fullest rank: whatever a micro batch is."""
    mesh, stage = layout.mesh, layout.stage
    own_expert = mesh.sharding // mesh.ep if mesh.expert_axis == "sharding" else mesh.sharding
    master = 0 if layout.dtype == "float32" else 4

    def bytes_of(elements: float, ranks: int) -> float:
        parameters = layout.weight_bytes / (ranks if stage == 3 else 1)
        gradients = layout.gradient_bytes / (ranks if stage >= 2 else 1)
        optimizer = 0 if layout.offload else (8 + master) / (ranks if stage else 1)
        return elements * (parameters + gradients + optimizer)

    return max(
        bytes_of(experts, own_expert) + bytes_of(others, mesh.sharding)
        for experts, others in rank_elements(work, layout)
    )


def _nothing(wanted: Wanted, hw: Hardware, possible: bool) -> str:
    where = f"{wanted.devices} devices of {hw.memory_gib:.0f} GiB"
    if possible:
        return f"no layout fits on {where}: take more devices, shorter sequences or offload of the optimizer state"
    return (
        f"no layout of {wanted.global_batch} sequences a step has room for the model on {where}, or shares the "
        "sequences out equally: take more devices, or a global batch that is a multiple of more of them"
    )
