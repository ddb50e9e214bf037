"""The memory of each rank of a run, by kind and over a step, before the run is started.

A step is gone through as the run goes through it: forward and backward passes in the order of `parallel.schedule`,
layer by layer, then the update. Every moment at which memory can be at its greatest is a `Moment`.
"""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from paddlenlp.nn.cpu.loss import ROWS
from paddlenlp.nn.head import LMHead
from paddlenlp.nn.plain import HEAD_ROWS
from paddlenlp.parallel.schedule import Task, schedule

from .abstract import AbstractModel, AbstractStage, abstract_model
from .activations import StageKept, makes_mask, stage_kept, total, view_of
from .kept import View
from .layout import Layout
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
        self._tasks = schedule(layout.mesh.pp, rank.place.pp, layout.accumulation, len(rank.chunks))
        self.in_flight = max(len(now) for _, now in self._passes())

    def _of(self, stage: AbstractStage, known: Dict[Tuple[int, Optional[str]], StageKept]) -> StageKept:
        key = id(stage.layer), None if stage.index is None else self._layout.recomputes(stage.index)
        if key not in known:
            known[key] = stage_kept(stage, self._layout, self._view)
        return known[key]

    def _passes(self) -> List[Tuple[Task, List[int]]]:
        """Each task, and the chunks of the passes that are open when it is at work."""
        open_now: Dict[Tuple[int, int], int] = {}
        found = []
        for task in self._tasks:
            key = task.chunk, task.micro
            if task.kind == "forward":
                open_now[key] = task.chunk
            found.append((task, list(open_now.values())))
            if task.kind == "backward":
                del open_now[key]
        return found

    def timeline(self) -> List[Moment]:
        """The moments of a step that can be its greatest."""
        return [*self._computing(), *self._updating()]

    # ---- forward and backward passes -------------------------------------------------------------------------

    def _computing(self) -> List[Moment]:
        """Of each kind of pass the one with most open: with gradients of earlier passes, and without."""
        sums = [total([kept.parts for kept in chunk]) for chunk in self.kept]
        weights = [sum(parts.values()) for parts in sums]
        fullest_pass: Dict[Tuple[str, int, bool], Tuple[float, Task, List[int]]] = {}
        had_backward = False
        for task, now in self._passes():
            weight, key = sum(weights[chunk] for chunk in now), (task.kind, task.chunk, had_backward)
            if key not in fullest_pass or weight >= fullest_pass[key][0]:
                fullest_pass[key] = weight, task, now
            had_backward = had_backward or task.kind == "backward"
        found = []
        for (kind, chunk, later), (_, task, now) in fullest_pass.items():
            others = total([sums[one] for one in _without(now, chunk)])
            if kind == "forward":
                found.append(self._forward_end(task, others, sums[chunk], later))
            else:
                found += self._backward(task, others, later)
        return found

    def _forward_end(self, task: Task, others: Mapping[str, float], own: Mapping[str, float], later: bool) -> Moment:
        gradients = self.state.summed if later else 0
        return self._moment(f"end of forward pass {_name(task)}", total([others, own]), gradients)

    def _backward(self, task: Task, others: Mapping[str, float], later: bool) -> List[Moment]:
        """At each stage: what the stages before it keep, what it makes again, and the gradients so far."""
        state, stages, kept = self.state, self._rank.chunks[task.chunk], self.kept[task.chunk]
        shares = [sum(share.size for share in self._rank.parameters_of(stage)) for stage in stages]
        whole, done, worst = max(1, sum(shares)), 0, None
        for at in reversed(range(len(stages))):
            done += shares[at]
            before = total([others, *[one.parts for one in kept[: at + 1]]])
            made = state.whole if later else state.whole * done / whole
            working = kept[at].again + self._space(stages[at], kept[at])
            moment = self._moment(f"backward pass {_name(task)}, at {stages[at].name}", before, made, working)
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
            exchange + (self._travelling() if computing else 0),
            state.gathered if computing else 0,
            working,
        )
        return Moment(when, {kind: float(size) for kind, size in zip(KINDS, sizes)})

    def _travelling(self) -> float:
        """Hidden states on their way: those that tensor-parallel ranks gather, and those for other pipeline ranks,
        which stay until they have surely left (`pipeline.Mail`)."""
        mesh, view = self._layout.mesh, self._view
        row = view.config.hidden_size * view.element
        gathered = view.tokens * row * (2 if view.rows < view.tokens else 1) if mesh.tp > 1 else 0
        if mesh.pp == 1:
            return gathered
        chunks = len(self._rank.chunks)
        kept = min(self._layout.accumulation * chunks, 2 * mesh.pp * chunks + 1)
        directions = (not self._rank.is_last or chunks > 1) + (self._rank.place.pp > 0 or chunks > 1)
        return gathered + directions * (kept + 2) * view.rows * row


def _without(chunks: Sequence[int], one: int) -> List[int]:
    found = list(chunks)
    found.remove(one)
    return found


def _name(task: Task) -> str:
    return f"of micro batch {task.micro + 1}" + (f", chunk {task.chunk + 1}" if task.chunk else "")
