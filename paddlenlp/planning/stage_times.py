"""How long a stage of a model takes for one micro batch on a rank, and what of its exchanges nothing hides."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Optional, Tuple

from .hardware import Hardware
from .kernel_times import blocks, elementwise, flash, product, stored_scores
from .layout import Layout
from .wire import Line, collective, lines, neighbour, sent, shown
from .work import Matrix, Scores, StageWork

LOSS_BYTES = 28
"""Bytes that go through memory for each logit, forward and backward: to float32 (6), softmax (8), its gradient (8), and
back to 16 bits (6)."""

KERNELS = 12
"""Kernels of a layer's forward pass beside its products, and half of those of its backward pass."""


@dataclass(frozen=True)
class Engine:
    """What a toolkit's kernels and exchanges can do. The defaults are this one's.

    Attributes:
        pace: speed of products in training, of that of products timed alone: a device that works on runs at the clock
            its power allows, its caches hold other data, and the host does not always keep ahead.
        scores: how attention runs where flash attention does not: a key of `SCORE_BYTES`.
        flash_biased: flash attention takes biases (linear positions, windows), computing all pairs.
        flash_uneven: flash attention takes values narrower than keys as they are; else they are padded.
        flash_ring: flash attention runs in rings (context parallelism).
        tensor_overlap: exchanges of the gradients of hidden states travel during products.
        gradient_overlap: gradients travel during the backward pass.
        gather_overlap: updated parameters travel during the next forward pass.
        cpu_attention: share of the peak that attention reaches on a CPU; see `cpu_engine`.
        logits_stored: whether the loss goes through memory, logit by logit.
    """

    pace: float = 0.73
    scores: str = "plain"
    flash_biased: bool = False
    flash_uneven: bool = False
    flash_ring: bool = False
    tensor_overlap: bool = True
    gradient_overlap: bool = True
    gather_overlap: bool = False
    cpu_attention: float = 0.5
    logits_stored: bool = True


class Times(NamedTuple):
    """Seconds of a pass: products, attention, what only moves memory; and exchanges that nothing hides, of the
    tensor-parallel ranks, of those that share experts and of those that share sequences."""

    products: float = 0.0
    attention: float = 0.0
    memory: float = 0.0
    tensor: float = 0.0
    experts: float = 0.0
    sequence: float = 0.0

    @property
    def total(self) -> float:
        """All of it."""
        return sum(self)

    @property
    def computing(self) -> float:
        """Without exchanges: what others can hide behind."""
        return self.products + self.attention + self.memory


class StageTimes(NamedTuple):
    """Forward pass, backward pass without recomputing, and recomputing."""

    forward: Times
    backward: Times
    again: Times


@lru_cache(maxsize=1 << 14)
def stage_times(work: StageWork, layout: Layout, recompute: Optional[str], hw: Hardware, engine: Engine) -> StageTimes:
    """Those of a stage, for one micro batch. `layout` is best one made by `essential`, so that results are shared."""
    axes = lines(layout)
    forward, outputs, weights = (seconds / engine.pace for seconds in _products(work, layout, hw))
    attention = _attention(work, layout, hw, engine)
    memory = _memory(work, layout, hw, LOSS_BYTES if engine.logits_stored else 0)
    tensor = _tensor(work, layout, hw, axes["tp"], (outputs, weights) if engine.tensor_overlap else (0.0, 0.0))
    experts = _experts(work, layout, hw, axes["ep"])
    sequence = _sequence(work, layout, hw, axes["sequence"], attention)
    ahead = Times(forward, attention[0], memory[0], tensor[0], experts, sequence[0])
    back = Times(outputs + weights, attention[1], memory[1], tensor[1], experts, sequence[1])
    return StageTimes(ahead, back, _again(work, layout, hw, recompute, ahead))


def essential(layout: Layout) -> Layout:
    """`layout` with everything that a stage's times don't depend on at one value."""
    return layout.with_(accumulation=1, stage=0, chunks=1, recompute=None, kept_layers=(), interval=1)


def _products(work: StageWork, layout: Layout, hw: Hardware) -> Tuple[float, float, float]:
    """Seconds of the products: forward, gradients of what goes in, gradients of matrices."""
    forward = outputs = weights = 0.0
    for matrix in work.matrices:
        rows, count = _rows(matrix, layout)
        inputs, columns = matrix.own(layout.mesh.tp)
        forward += count * product(hw, rows, columns, inputs, layout.bytes)
        outputs += count * product(hw, rows, inputs, columns, layout.bytes)
        weights += count * product(hw, inputs, columns, rows, layout.bytes)
    return forward, outputs, weights


def _rows(matrix: Matrix, layout: Layout) -> Tuple[int, int]:
    """Rows that a matrix is multiplied with, and how many matrices like it a rank has. Experts get equal shares."""
    if matrix.copies == 1:
        return max(1, round(layout.tokens * matrix.share)), 1
    ep = layout.mesh.ep
    return max(1, round(layout.tokens * ep * matrix.share)), matrix.copies // ep


def _attention(work: StageWork, layout: Layout, hw: Hardware, engine: Engine) -> Tuple[float, float]:
    forward = backward = 0.0
    for scores in work.scores:
        causal = layout.tokens * layout.seq_length / 2 * scores.heads / layout.mesh.tp
        widths, length = scores.key_width + scores.value_width, layout.seq_length
        padded = widths if engine.flash_uneven else 2 * max(scores.key_width, scores.value_width)
        if hw.is_cpu and layout.mesh.cp == 1:  # blocks of the keys that are seen, whatever else there is (nn/cpu)
            one, two = blocks(hw, causal, widths, engine.cpu_attention)
        elif not _takes(scores, layout, engine):
            pairs = causal if layout.mesh.cp > 1 else 2 * causal
            one, two = stored_scores(hw, pairs, widths, length, layout.bytes, engine.scores)
        elif scores.biased:
            one, two = flash(hw, 2 * causal, padded, length, 2 * causal * layout.bytes)
        else:
            one, two = flash(hw, causal, padded, length)
        forward, backward = forward + one, backward + two
    return forward, backward


def _takes(scores: Scores, layout: Layout, engine: Engine) -> bool:
    """Whether flash attention computes these scores; see `nn/gpu.py`."""
    return (
        layout.flash
        and layout.bytes == 2
        and (engine.flash_biased or not scores.biased)
        and (engine.flash_ring or layout.mesh.cp == 1)
    )


def _memory(work: StageWork, layout: Layout, hw: Hardware, loss_bytes: int) -> Tuple[float, float]:
    """Seconds of what only moves memory. Passes over it, forward and backward: norm 2 and 3, addition 3 and 3, turning
    and taking apart 2 and 2, activation (inputs + 1) and (2 inputs + 1), sending rows to experts and back 8 and 8."""
    tp, size, rows = layout.mesh.tp, layout.bytes, layout.tokens
    between = rows / tp if layout.sequence_parallel else rows
    moves = rows * 2 * (work.turned + work.split) / tp + rows * 8 * work.dealt * work.hidden
    forward = between * (2 * work.norms + 3 * work.adds) + moves
    backward = between * (3 * work.norms + 3 * work.adds) + moves
    for activation in work.activations:
        width = rows * activation.share * activation.width / tp
        forward += width * (activation.inputs + 1)
        backward += width * (2 * activation.inputs + 1)
    loss = loss_bytes * rows * work.vocabulary / tp
    kernels = KERNELS + sum(2 * matrix.copies // layout.mesh.ep for matrix in work.matrices if matrix.copies > 1)
    return elementwise(hw, forward * size, kernels), elementwise(hw, backward * size + loss, 2 * kernels)


def _tensor(
    work: StageWork, layout: Layout, hw: Hardware, tp: Line, hidden: Tuple[float, float]
) -> Tuple[float, float]:
    """Seconds of the exchanges of the tensor-parallel ranks (see `parallel.products`) that are not hidden behind the
    products of the gradients of what goes in, and of matrices."""
    if tp.size == 1:
        return 0.0, 0.0
    size = layout.tokens * layout.bytes
    enters = sum(collective(hw, tp, size * width) for width in work.enters)
    leaves = sum(collective(hw, tp, size * width) for width in work.leaves)
    outputs, weights = hidden
    if layout.sequence_parallel:
        again = sum(collective(hw, tp, size * width) for width in work.regathered)
        return enters + leaves, shown(again, outputs) + shown(enters, weights) + leaves
    return 2 * leaves, shown(2 * enters, weights)


def tensor_bytes(work: StageWork, layout: Layout) -> Tuple[float, float]:
    """Bytes a rank sends over tp for one micro batch, forward and backward, without recomputing."""
    line, size = lines(layout)["tp"], layout.tokens * layout.bytes
    enters, leaves, again = (sent(line, size * sum(x)) for x in (work.enters, work.leaves, work.regathered))
    if layout.sequence_parallel:
        return enters + leaves, again + enters + leaves
    return 2 * leaves, 2 * enters


def _experts(work: StageWork, layout: Layout, hw: Hardware, ep: Line) -> float:
    """Seconds of a pass's two exchanges of rows with the ranks that hold their experts (`parallel.experts`)."""
    return 2 * collective(hw, ep, layout.tokens * work.dealt * work.hidden * layout.bytes) if work.dealt else 0.0


def _sequence(
    work: StageWork, layout: Layout, hw: Hardware, line: Line, attention: Tuple[float, float]
) -> Tuple[float, float]:
    """Seconds of the exchanges of ranks that share sequences: all-to-all under sep, a ring under cp whose steps hide
    behind attention."""
    forward = backward = 0.0
    if line.size == 1:
        return forward, backward
    for scores in work.scores:
        widths, tp = scores.key_width + scores.value_width, layout.mesh.tp
        keys = layout.tokens * max(1, scores.key_heads // tp) * widths
        if layout.mesh.sep > 1:
            one = two = collective(hw, line, (keys + layout.tokens * scores.heads // tp * widths) * layout.bytes)
        else:
            one, two = ((line.size - 1) * neighbour(hw, line, keys * n) for n in (layout.bytes, layout.bytes + 4))
            one, two = shown(one, attention[0]), shown(two, attention[1])
        forward, backward = forward + one, backward + two
    return forward, backward


def _again(work: StageWork, layout: Layout, hw: Hardware, recompute: Optional[str], forward: Times) -> Times:
    """What a backward pass computes again of the `forward` pass."""
    if recompute is None or work.kind != "layer":
        return Times()
    if recompute == "full":
        return forward
    if recompute == "core_attn":
        return Times(attention=0.0 if layout.mesh.cp > 1 else forward.attention)
    attends = [matrix for matrix in work.matrices if matrix.attends]
    share = sum(matrix.inputs * matrix.outputs * matrix.share for matrix in attends)
    whole = sum(matrix.inputs * matrix.outputs * matrix.share * matrix.copies for matrix in work.matrices)
    return forward._replace(
        products=forward.products * share / whole,
        memory=forward.memory * share / whole,
        tensor=forward.tensor / 2,
        experts=0.0,
    )
