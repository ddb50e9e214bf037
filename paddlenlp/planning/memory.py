"""The memory of each rank of a run, by kind and over a step, before the run is started.

A step is gone through as the run goes through it: forward and backward passes in the order of `parallel.schedule`,
layer by layer, then the update. Every moment at which memory can be at its greatest is a `Moment`.
"""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from paddlenlp.nn.cpu.loss import ROWS
from paddlenlp.nn.head import LMHead
from paddlenlp.nn.plain import HEAD_ROWS
from paddlenlp.parallel.schedule import Task

from .abstract import AbstractModel, AbstractStage, abstract_model
from .activations import StageKept, makes_mask, stage_kept, total, view_of
from .kept import View
from .layout import Layout
from .passes import Situation, situations
from .rank import Place, RankModel, State, state_of

KINDS = (
    "parameters",
    "gradients",
    "master weights",
    "moments",
    "activations",
    "logits and loss",
    "communication",
    "gathered parameters",
    "working space",
)
"""What memory is taken by, in the order of the tables."""

FRAGMENTATION = 0.05
"""Of what comes and goes within a step (all but parameters, master weights and moments): what an allocator that grows
in blocks leaves unused between tensors. An allowance, not a measurement."""

RESERVED = 1 << 30
"""Bytes that a process takes on a GPU beside what Paddle allocates: the driver's context, kernels, NCCL's buffers. An
allowance, not a measurement."""

GIB = 1 << 30


class Moment(NamedTuple):
    """Bytes by kind at some point of a step."""

    when: str
    bytes: Dict[str, float]

    @property
    def total(self) -> float:
        """Of all kinds."""
        return sum(self.bytes.values())


class RankMemory(NamedTuple):
    """The memory of one rank.

    Attributes:
        place: of the rank.
        stages: names of the stages it has.
        state: parameters, gradients and optimizer state in full.
        activations: part -> bytes that one micro batch leaves for its backward pass.
        in_flight: micro batches (times chunks) between forward and backward pass, at most.
        timeline: the moments.
        on_gpu: whether a GPU's allowances count.
    """

    place: Place
    stages: Tuple[str, ...]
    state: State
    activations: Dict[str, float]
    in_flight: int
    timeline: Tuple[Moment, ...]
    on_gpu: bool = True

    @property
    def peak(self) -> Moment:
        """The moment that takes most."""
        return max(self.timeline, key=lambda moment: moment.total)

    @property
    def fragmentation(self) -> float:
        """The allowance for gaps between tensors, in bytes."""
        fixed = ("parameters", "master weights", "moments")
        moving = sum(size for kind, size in self.peak.bytes.items() if kind not in fixed)
        return FRAGMENTATION * moving if self.on_gpu else 0.0

    @property
    def needed(self) -> float:
        """Bytes that the device must have: the peak with both allowances."""
        return self.peak.total + self.fragmentation + (RESERVED if self.on_gpu else 0)


def plan_memory(config: Any, layout: Layout, device: str = "gpu") -> List[RankMemory]:
    """The memory of every pipeline rank; the ranks of the other axes hold as much, but for the padding of buckets.

    Args:
        config: a PretrainedConfig, or an AbstractModel.
        layout: how the run is spread.
        device: "gpu" or "cpu".

    Raises:
        UsageError: the model can't be cut so.
    """
    model = config if isinstance(config, AbstractModel) else abstract_model(config)
    return [plan_rank(model, layout, Place(stage), device) for stage in range(layout.mesh.pp)]


def fullest(ranks: Sequence[RankMemory]) -> RankMemory:
    """The rank that needs most."""
    return max(ranks, key=lambda rank: rank.needed)


def needed_within(room: float, config: Any, layout: Layout, device: str = "gpu") -> float:
    """Bytes that the fullest rank needs, or infinity if that is more than `room`: the ranks that are fullest mostly,
    the first and the last one of the pipeline, are planned first, and none behind one that does not fit.

    Raises:
        UsageError: the model can't be cut so.
    """
    model, most = config if isinstance(config, AbstractModel) else abstract_model(config), 0.0
    last = layout.mesh.pp - 1
    for stage in sorted(range(last + 1), key=lambda stage: (0 < stage < last, stage)):
        most = max(most, plan_rank(model, layout, Place(stage), device).needed)
        if most > room:
            return float("inf")
    return most


def plan_rank(model: AbstractModel, layout: Layout, place: Place, device: str = "gpu") -> RankMemory:
    """The memory of one rank."""
    rank = RankModel(model, layout, place)
    step = _Step(rank, view_of(layout, model.config, device, makes_mask(model.family)))
    return RankMemory(
        place,
        tuple(stage.name for stage in rank.order),
        step.state,
        total([kept.parts for chunk in step.kept for kept in chunk]),
        step.in_flight,
        tuple(step.timeline()),
        device == "gpu",
    )


class _Step:
    """One step of a rank.

    Attributes:
        state: what the rank holds beside activations.
        kept: chunk -> what each of its stages keeps.
        in_flight: passes that are open at once, at most.
    """

    def __init__(self, rank: RankModel, view: View) -> None:
        layout = rank.layout
        self._rank, self._layout, self._view = rank, layout, view
        self.state = state_of(rank)
        known: Dict[Tuple[int, Optional[str]], StageKept] = {}
        self.kept = [[self._of(stage, known) for stage in chunk] for chunk in rank.chunks]
        self._situations = situations(layout.mesh.pp, rank.place.pp, layout.accumulation, len(rank.chunks))
        self.in_flight = max(sum(one.open) for some in self._situations.values() for one in some)

    def _of(self, stage: AbstractStage, known: Dict[Tuple[int, Optional[str]], StageKept]) -> StageKept:
        key = id(stage.layer), None if stage.index is None else self._layout.recomputes(stage.index)
        if key not in known:
            known[key] = stage_kept(stage, self._layout, self._view)
        return known[key]

    def timeline(self) -> List[Moment]:
        """The moments of a step that can be its greatest."""
        return [*self._computing(), *self._updating()]

    # ---- forward and backward passes -------------------------------------------------------------------------

    def _computing(self) -> List[Moment]:
        """Of each kind of pass the one with most open: with gradients of earlier passes, and without."""
        sums = [total([kept.parts for kept in chunk]) for chunk in self.kept]
        weights = [sum(parts.values()) for parts in sums]
        found = []
        for (kind, chunk, later), some in self._situations.items():
            # The last of those that are alike.
            worst = max(reversed(some), key=lambda one: self._travelling(one.leaving) + _held(one, weights))
            others = total([_times(sums[at], count - (at == chunk)) for at, count in enumerate(worst.open)])
            if kind == "forward":
                found.append(self._forward_end(worst, others, sums[chunk], later))
            else:
                found += self._backward(worst, others, later)
        return found

    def _forward_end(
        self, situation: Situation, others: Mapping[str, float], own: Mapping[str, float], later: bool
    ) -> Moment:
        gradients, when = self.state.summed if later else 0, f"end of forward pass {_name(situation.task)}"
        return self._moment(when, total([others, own]), gradients, exchange=self._travelling(situation.leaving))

    def _backward(self, situation: Situation, others: Mapping[str, float], later: bool) -> List[Moment]:
        """At each stage: what the stages before it keep, what it makes again, and the gradients so far."""
        state, task, exchange = self.state, situation.task, self._travelling(situation.leaving)
        stages, kept = self._rank.chunks[task.chunk], self.kept[task.chunk]
        shares = [sum(share.size for share in self._rank.parameters_of(stage)) for stage in stages]
        whole, done, worst = max(1, sum(shares)), 0, None
        for at in reversed(range(len(stages))):
            done += shares[at]
            before = total([others, *[one.parts for one in kept[: at + 1]]])
            made = state.whole if later else state.whole * done / whole
            working = kept[at].again + self._space(stages[at], kept[at])
            when = f"backward pass {_name(task)}, at {stages[at].name}"
            moment = self._moment(when, before, made, working, exchange)
            worst = moment if worst is None or moment.total > worst.total else worst
        return [] if worst is None else [worst]

    def _space(self, stage: AbstractStage, kept: StageKept) -> float:
        """What operations of a backward pass need beside what is kept: the gradients of one part at a time, which are
        as large as what it keeps; of the head those of a block of logits and of its matrix, before it is added."""
        if not isinstance(stage.layer, LMHead):
            return max([kept.again / 2, *kept.parts.values()], default=0.0)
        view, (rows, columns) = self._view, stage.layer.matrix.whole_shape
        elements, vocab = rows * columns / view.tp, max(rows, columns) / view.tp
        if view.kernels["head_loss"] == "external":  # its block of logits is none of Paddle's memory
            return elements * view.element
        if view.kernels["head_loss"] == "rows":
            return (min(view.tokens, ROWS) * vocab + elements) * view.element
        return min(view.tokens, HEAD_ROWS) * vocab * (4.0 + view.element) + elements * view.element

    # ---- the update ------------------------------------------------------------------------------------------

    def _updating(self) -> List[Moment]:
        state = self.state
        found = [self._moment("optimizer step", {}, state.final, state.piece, computing=False)]
        if state.exchange:
            found.append(
                self._moment("gathering updated parameters", {}, state.final, 0, state.exchange, computing=False)
            )
        return found

    def _moment(
        self,
        when: str,
        activations: Mapping[str, float],
        gradients: float,
        working: float = 0,
        exchange: float = 0,
        computing: bool = True,
    ) -> Moment:
        state = self.state
        loss = activations.get("loss", 0.0)
        on_device = 0.0 if state.on_host else 1.0
        sizes = (
            state.parameters,
            gradients,
            state.masters * on_device,
            state.moments * on_device,
            sum(activations.values()) - loss,
            loss,
            exchange,
            state.gathered if computing else 0,
            working,
        )
        return Moment(when, {kind: float(size) for kind, size in zip(KINDS, sizes)})

    def _travelling(self, leaving: int) -> float:
        """Hidden states on their way: those that tensor-parallel ranks gather, and those for other pipeline ranks
        (`pipeline.Mail`), of which two are expected while `leaving` have not surely left."""
        mesh, view = self._layout.mesh, self._view
        row = view.config.hidden_size * view.element
        gathered = view.tokens * row * (2 if view.rows < view.tokens else 1) if mesh.tp > 1 else 0
        return gathered + ((leaving + 2) * view.rows * row if mesh.pp > 1 else 0)


def _held(situation: Situation, weights: Sequence[float]) -> float:
    return sum(count * weight for count, weight in zip(situation.open, weights))


def _times(parts: Mapping[str, float], count: int) -> Dict[str, float]:
    return {name: count * size for name, size in parts.items()} if count else {}


def _name(task: Task) -> str:
    return f"of micro batch {task.micro + 1}" + (f", chunk {task.chunk + 1}" if task.chunk else "")
