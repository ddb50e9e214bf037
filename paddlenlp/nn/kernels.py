"""The one chooser of kernels: layers call the functions below, and `configure` alone decides what runs behind them.

On a CPU the hand-written float32 kernels of `nn/cpu` run; on a GPU Paddle's operations (`nn/gpu.py`), the fused ones
where the arguments ask for them; the plain versions (`nn/plain.py`) run everywhere else. No call looks at flags or
environment variables. Results follow the precision policy: where low precision is emulated they are rounded to its
grid.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import paddle
from paddle import Tensor

from paddlenlp.parallel.dropout import own_stream
from paddlenlp.parallel.group import Group

from . import plain
from .documents import Documents
from .precision import precision

Kernels = Dict[str, Callable[..., Tensor]]

FLAGS: Dict[str, Tuple[str, ...]] = {
    "use_flash_attention": ("attention",),
    "use_fused_rms_norm": ("rms_norm",),
    "use_fused_rope": ("rotate",),
    "use_fused_linear": ("linear",),
    "use_fused_linear_cross_entropy": ("head_loss",),
    "use_fast_layer_norm": ("layer_norm", "rms_norm"),
    "use_fused_dropout_add": (),
}
"""Flag -> the kernels it asks for."""

_chosen: Kernels = {}
_at_once: bool = False
_report: List[str] = []


def configure(*arguments: Any) -> None:
    """Choose the kernels of this run for the device Paddle computes on: once, before the model is built.

    Args:
        arguments: objects that may have the flags of FLAGS as attributes (TrainingArguments, ModelArguments); a flag
            that none of them has is off.
    """
    global _at_once
    asked = [flag for flag in FLAGS if any(getattr(holder, flag, False) for holder in arguments)]
    _at_once = paddle.get_device().startswith("cpu")
    faster, reasons = _of_cpu() if _at_once else _of_gpu(asked)
    _chosen.clear()
    _chosen.update({name: getattr(plain, name) for name in plain.KERNELS}, **faster)
    _report[:] = [_line(flag, reasons) for flag in asked if flag in reasons]


def report() -> List[str]:
    """One line for each operation that was asked for and does not run: the flag, what runs instead, and why."""
    return list(_report)


def each(function: Callable[[Any], Any], parts: Sequence[Any]) -> List[Any]:
    """`[function(part) for part in parts]` for independent parts, without gradients.

    On a CPU the parts run at once, since most of Paddle's operations there use one thread; put the largest first.
    """
    from .cpu import threads

    return threads.run(function, parts) if _at_once else [function(part) for part in parts]


def _of_cpu() -> Tuple[Kernels, Dict[str, str]]:
    """The CPU kernels, and why none of the flags has its own."""
    from . import cpu

    no_kernel = "Paddle has no such kernel for CPUs"
    reasons = dict.fromkeys(FLAGS, no_kernel)
    reasons["use_fused_rms_norm"] = "Paddle's ends the process on CPUs without AVX-512"
    reasons["use_fast_layer_norm"] = "it is an operation of external_ops for GPUs"
    reasons["use_fused_linear_cross_entropy"] = "this one never holds all logits either"
    reasons["use_fused_dropout_add"] = "no layer adds what it drops"
    return cpu.kernels(), reasons


def _of_gpu(asked: List[str]) -> Tuple[Kernels, Dict[str, str]]:
    """The GPU kernels that `asked` turns on, and why some flags turn on none."""
    from . import gpu

    reasons = {
        "use_fast_layer_norm": "external_ops is not installed",
        "use_fused_linear_cross_entropy": "there is none for GPUs yet",
        "use_fused_dropout_add": "no layer adds what it drops",
    }
    return {
        **gpu.ALWAYS,
        **{name: kernel for flag in asked for name, kernel in gpu.ON_REQUEST.get(flag, {}).items()},
    }, reasons


def _line(flag: str, reasons: Dict[str, str]) -> str:
    running = [f"{name} of {_chosen[name].__module__}" for name in FLAGS[flag]]
    return f"{flag}: {' and '.join(running) or 'plain dropout and addition'} instead, because {reasons[flag]}"


def rms_norm(x: Tensor, weight: Tensor, eps: float, offset: float = 0.0) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * (offset + weight) over the last axis. Gemma stores weight - 1, hence `offset`."""
    return precision().round(_chosen["rms_norm"](x, weight, eps, offset))


def layer_norm(x: Tensor, weight: Tensor, bias: Optional[Tensor], eps: float) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last axis."""
    return precision().round(_chosen["layer_norm"](x, weight, bias, eps))


def rotate(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False) -> Tensor:
    """Rotary positions: x [b, s, heads, d]; cos, sin float32 [b | 1, s, 1, d/2], which get no gradients.

    Pairs of features are (i, i + d/2), or (2i, 2i + 1) if `interleaved`.
    """
    return precision().round(_chosen["rotate"](x, cos, sin, interleaved))


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Optional[Tensor] = None,
    documents: Optional[Documents] = None,
    bias: Optional[Tensor] = None,
    scale: Optional[float] = None,
    window: Optional[int] = None,
    dropout: float = 0.0,
) -> Tensor:
    """Causal attention with grouped heads.

    Args:
        q: [b, s, h, d]; the queries are the last s of the t positions.
        k, v: [b, t, hkv, d] and [b, t, hkv, dv]; query head i reads key head i // (h / hkv).
        mask: [b | 1, t]: true (or 1) where the key may be seen, on top of the causal rule; or [b | 1, h | 1, s, t]:
            true where this query may see this key, in place of the causal rule. A query that sees no key gives zeros.
        documents: of the t positions; a query sees only keys of its own document, whatever the mask says.
        bias: float [b | 1, h | 1, s, t], added to the scaled scores.
        scale: factor of q k'; 1 / sqrt(d) if None.
        window: a query sees only keys less than `window` positions back.
        dropout: rate at which probabilities are dropped.

    Returns:
        [b, s, h, dv]
    """
    options = {"mask": mask, "documents": documents, "bias": bias, "scale": scale, "window": window, "dropout": dropout}
    with own_stream() if dropout else nullcontext():  # each rank has other heads
        y = _chosen["attention"](q, k, v, **options)
    return precision().round(y)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up."""
    return precision().round(_chosen["swiglu"](gate, up))


def linear(x: Tensor, weight: Tensor, bias: Optional[Tensor] = None) -> Tensor:
    """x [..., in] times weight [in, out] plus bias [out], all brought to the compute dtype."""
    policy = precision()
    bias = None if bias is None else policy.to_compute(bias)
    return policy.round(_chosen["linear"](policy.to_compute(x), policy.to_compute(weight), bias))


def product(x: Tensor, weight: Tensor, bias: Optional[Tensor] = None) -> Tensor:
    """`linear` of tensors in the compute dtype, not rounded: for those who sum several before they round."""
    return _chosen["linear"](x, weight, bias)


def embedding(ids: Tensor, weight: Tensor) -> Tensor:
    """Rows of weight [vocab, h] for ids [...], in the compute dtype: [..., h]."""
    return precision().to_compute(_chosen["embedding"](ids, weight))


def cross_entropy(logits: Tensor, labels: Tensor, group: Group = plain.SOLO) -> Tensor:
    """Loss of each token, float32 [t], for logits [t, v] and labels [t]; 0 where the label is -100.

    Logits that are cut over the ranks of `group` are [t, v / ranks].
    """
    return _chosen["cross_entropy"](logits, labels, group)


def head_loss(x: Tensor, weight: Tensor, labels: Tensor, transpose: bool = False, group: Group = plain.SOLO) -> Tensor:
    """Sum of the cross entropies of x [t, h] times weight [h, v] ([v, h] with `transpose`) at labels [t] but -100.

    A float32 scalar. The logits of all rows never exist at once. For a mean divide by the number of kept labels of the
    whole global batch, so that a step does not depend on how it is split into micro batches.

    Where the vocabulary is cut over the ranks of `group`, `weight` is this rank's, x, labels and the result are the
    same on every rank, and the gradient of x is this rank's part of the sum.
    """
    policy = precision()
    return _chosen["head_loss"](policy.to_compute(x), policy.to_compute(weight), labels, transpose, group)


configure()
