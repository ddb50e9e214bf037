"""What the peaks of PaddleNLP's published runs come to, by the same count as this toolkit's and the stated differences.

That toolkit keeps more than this one. With these differences, the same for all runs, the count meets what was measured,
so it is trusted for this one, of which no such measurement exists yet.
"""

from __future__ import annotations

from typing import Any

from .layout import Layout
from .memory import fullest, plan_memory
from .work import ModelWork, StageWork

LOSS_BYTES = 10
"""Of each logit when the loss is differentiated: 16-bit logits, a float32 softmax, its float32 gradient. (Here the head
and its loss go through the rows in blocks.)"""

TURNED_BYTES = 8
"""Of each feature of a query or key that is turned in float32 by operations that are not fused, kept for the backward
pass, over what is kept here."""


def reference_peak(config: Any, work: ModelWork, layout: Layout, plain_rope: bool = False) -> float:
    """Bytes of `max_memory_allocated` of PaddleNLP (2023-11), at the head of the last micro batch.

    Args:
        plain_rope: whether positions are turned in float32, outside a fused operation.
    """
    rank = fullest(plan_memory(config, layout))
    state = 2 * rank.state.parameters + rank.state.masters + rank.state.moments  # gradients are kept whole
    kept = sum(size for part, size in rank.activations.items() if part != "loss")
    layers = [stage for stage in work.stages if stage.kind == "layer" and layout.recompute is None]
    more = sum(_more(stage, layout, plain_rope) for stage in layers)
    logits = LOSS_BYTES * layout.tokens * max(stage.vocabulary for stage in work.stages) / layout.mesh.tp
    return state + kept + more + logits + _mask(work, layout)


def _more(stage: StageWork, layout: Layout, plain_rope: bool) -> float:
    """What a layer keeps there and not here: under tensor parallelism each column-cut matrix a copy of its own of what
    it multiplies; the whole of a fused product of which one part is needed; what is turned in float32."""
    tp, rows = layout.mesh.tp, layout.tokens * layout.bytes
    columns = sum(matrix.cut.axis == 1 for matrix in stage.matrices)
    copies = (columns - len(stage.enters)) * stage.hidden if tp > 1 else 0
    turned = TURNED_BYTES * layout.tokens * stage.turned / 2 / tp if plain_rope else 0.0
    return rows * (copies + stage.split * 2 / 3 / tp) + turned


def _mask(work: ModelWork, layout: Layout) -> float:
    """The mask with the linear biases of all heads, which is made once."""
    heads = max((scores.heads for stage in work.stages for scores in stage.scores if scores.biased), default=0)
    return layout.micro_batch * heads / layout.mesh.tp * layout.seq_length**2 * layout.bytes
