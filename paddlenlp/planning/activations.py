"""Activations of a micro batch on one rank: what its stages keep, and what is computed again."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence

from paddlenlp.nn.external import is_built
from paddlenlp.nn.head import LMHead
from paddlenlp.nn.staged import StagedModel
from paddlenlp.trainer.model_fit import number_of_experts

from .abstract import BYTES, AbstractStage
from .kept import ATTENTION, CORE, LAYER, Kept, View, kept_of
from .layout import Layout

DROPPED: Dict[Optional[str], Sequence[str]] = {
    None: (),
    "core_attn": (CORE,),
    "full_attn": (CORE, ATTENTION),
    "full": (CORE, ATTENTION, LAYER),
}
"""Granularity of recompute -> what it does not keep."""

CPU_KERNELS = {
    "rms_norm": "cpu",
    "layer_norm": "plain",
    "rotate": "cpu",
    "swiglu": "cpu",
    "attention": "cpu",
    "head_loss": "rows",
}
"""What runs on a CPU without external operations."""

CPU_EXTERNAL = {
    "use_fused_rope": ("rotate", "fused"),
    "use_fused_swiglu": ("swiglu", "fused"),
    "use_flash_attention": ("attention", "external"),
    "use_fused_linear_cross_entropy": ("head_loss", "external"),
}
"""Flag -> the operation of external_ops that keeps something else than that of `nn/cpu`."""


def kernels_of(layout: Layout, device: str) -> Dict[str, str]:
    """Op -> "fused", "external", "cpu", "plain" or "rows", as a run of this layout would choose. On a CPU, which is the
    one at hand, external operations count if they are installed; on a GPU nobody knows whether they will be."""
    on = layout.kernels
    if device == "cpu":
        external = dict(CPU_EXTERNAL[flag] for flag in CPU_EXTERNAL if flag in on) if is_built("fused_layers") else {}
        return {**CPU_KERNELS, **external}
    return {
        "rms_norm": "fused" if "use_fused_rms_norm" in on else "plain",
        "layer_norm": "plain",
        "rotate": "fused" if "use_fused_rope" in on else "plain",
        "swiglu": "fused",
        "attention": "fused" if "use_flash_attention" in on else "plain",
        "head_loss": "plain",
    }


def view_of(layout: Layout, config: Any, device: str, masked: bool) -> View:
    """What layers see of a micro batch of this layout."""
    mesh = layout.mesh
    tokens = layout.tokens
    emulated = device == "cpu" and layout.compute != "float32"
    element = 4 if emulated else BYTES[layout.compute]
    chosen = kernels_of(layout, device)
    if mesh.tp > 1 and chosen["head_loss"] == "external":  # it does not exchange
        chosen["head_loss"] = "rows"
    if mesh.cp > 1:  # the ring keeps queries, keys, values, results and the logarithms of sums
        chosen["attention"] = "ring"
    return View(
        rows=tokens // mesh.tp if layout.sequence_parallel else tokens,
        tokens=tokens,
        batch=layout.micro_batch,
        queries=layout.seq_length // mesh.cp,
        keys=layout.seq_length,
        config=config,
        tp=mesh.tp,
        sep=mesh.sep,
        experts=number_of_experts(config) // mesh.ep,
        masked=masked,
        element=element,
        emulated=emulated,
        copied=element if emulated or layout.dtype != layout.compute else 0,
        kernels=chosen,
    )


class StageKept(NamedTuple):
    """Bytes of a stage for one micro batch.

    Attributes:
        parts: part -> what is kept until its backward pass.
        again: what is made again in its backward pass.
    """

    parts: Dict[str, float]
    again: float


def stage_kept(stage: AbstractStage, layout: Layout, view: View) -> StageKept:
    """What a stage keeps under the recompute policy of the layout."""
    if isinstance(stage.layer, LMHead):
        return StageKept(head_kept(stage.layer, view), 0.0)
    granularity = None if stage.index is None else layout.recomputes(stage.index)
    dropped, found, again = DROPPED[granularity], kept_of(stage.layer, view), 0.0
    parts: Dict[str, float] = {}
    for kept in found:
        if kept.scope in dropped:
            again += kept.bytes
        else:
            parts[kept.part] = parts.get(kept.part, 0.0) + kept.bytes
    if granularity == "full":
        parts["layer inputs"] = view.rows * view.config.hidden_size * view.element
    return StageKept(parts, again)


def head_kept(head: LMHead, view: View) -> Dict[str, float]:
    """Of the head and its loss."""
    matrix, tied = head.matrix, head.tied
    hidden, vocab = matrix.whole_shape[::-1] if tied else matrix.whole_shape
    vocab //= view.tp
    units = hidden * vocab * view.element + 4 * vocab if head.normalised else 0
    if view.kernels["head_loss"] != "plain":  # gradients are made at once, in place of logits
        return {"loss": float((view.tokens * hidden + hidden * vocab) * view.element), "head": float(units)}
    return {
        "head": float(view.tokens * hidden * view.element + units + hidden * vocab * view.copied),
        "loss": 4.0 * view.tokens * vocab,
    }


def makes_mask(family: Any) -> bool:
    """Whether the family makes a mask of the ids, which not every kernel takes."""
    return any("describe" in vars(kind) for kind in family.model_class.__mro__ if kind is not StagedModel)


def total(parts: Sequence[Mapping[str, float]]) -> Dict[str, float]:
    """Sums by part."""
    found: Dict[str, float] = {}
    for some in parts:
        for name, size in some.items():
            found[name] = found.get(name, 0.0) + size
    return found


__all__: List[str] = ["Kept", "StageKept", "head_kept", "kernels_of", "makes_mask", "stage_kept", "total", "view_of"]
