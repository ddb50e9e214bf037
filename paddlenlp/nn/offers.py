"""What could be used in place of the plain operations: the operations of external_ops, and on a GPU Paddle's own."""

from __future__ import annotations

from functools import partial
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from . import external, gpu, self_check
from .fused import attention, loss
from .precision import DType
from .trial import Attempt, outcomes


class Offer(NamedTuple):
    """An operation, and what it is made of.

    Attributes:
        op: its name in `plain.KERNELS`.
        kernel: takes the arguments of the plain one.
        module: the module whose functions it calls; "" if it is Paddle's own.
        functions: their names.
        dtypes: those it is tried with.
    """

    op: str
    kernel: Callable[..., Any]
    module: str = ""
    functions: Tuple[str, ...] = ()
    dtypes: Tuple[DType, ...] = ("float32",)


class State(NamedTuple):
    """What became of an offer.

    Attributes:
        op: its name in `plain.KERNELS`.
        module: whose functions it calls; "Paddle" if they are Paddle's.
        built: whether the module is installed.
        loads: whether it could be imported and has the functions.
        agrees: whether it gave what the plain operation gives; None if it was not tried.
        used: whether the run uses it.
        reason: why it is not used, "" if it is.
    """

    op: str
    module: str
    built: bool
    loads: bool
    agrees: Optional[bool]
    used: bool
    reason: str


def judge(asked: Sequence[Offer], device: str) -> List[State]:
    """Try the offers out, each against the plain operation.

    On a CPU all of it is done in a child process; on a GPU, which a forked child can't use, only the imports are.
    """
    modules = sorted({offer.module for offer in asked if offer.module and external.is_built(offer.module)})
    there = [offer for offer in asked if not offer.module or offer.module in modules]
    broken, faults = _try(modules, there, apart=device == "cpu")
    return [_state(offer, modules, broken, faults.get(offer, "")) for offer in asked]


def _try(modules: List[str], there: List[Offer], apart: bool) -> Tuple[Dict[str, str], Dict[Offer, str]]:
    """(module -> why it can't be imported, offer -> why it can't be used), "" where it can."""
    loads = [Attempt(partial(_import, module)) for module in modules]
    checks = [Attempt(partial(_fault, offer), modules.index(offer.module) if offer.module else None) for offer in there]
    found = outcomes(loads + checks if apart else loads)
    sound = [module for module, why in zip(modules, found) if not why]
    again = dict(zip(sound, outcomes([loads[modules.index(module)] for module in sound], apart=False)))
    broken = {module: why or again[module] for module, why in zip(modules, found)}
    if not apart:
        found += outcomes([Attempt(partial(_fault, offer, broken.get(offer.module, ""))) for offer in there], apart)
    return broken, dict(zip(there, found[len(modules) :]))


def _import(module: str) -> str:
    external.load(module)
    return ""


def _fault(offer: Offer, known: str = "") -> str:
    lacking = external.lacking(offer.module, offer.functions) if offer.module and not known else known
    return lacking or self_check.fault(offer.op, offer.kernel, offer.dtypes)


def _state(offer: Offer, modules: Sequence[str], broken: Dict[str, str], fault: str) -> State:
    if offer.module and offer.module not in modules:
        return State(offer.op, offer.module, False, False, None, False, f"{offer.module} is not installed")
    why = broken.get(offer.module) or (offer.module and external.lacking(offer.module, offer.functions))
    if why:
        return State(offer.op, offer.module, True, False, None, False, f"{offer.module} can't be used: {why}")
    module = offer.module or "Paddle"
    reason = f"{module}'s failed its self-check: {fault}" if fault else ""
    return State(offer.op, module, True, True, not fault, False, reason)


def offers(device: str, fast_norms: bool = False) -> List[Offer]:
    """What there is for "cpu" or "gpu"; of several offers of an op the first is the best.

    Args:
        fast_norms: prefer the norms of fast_ln to those of fused_ln.
    """
    norms = (_FAST + _FUSED if fast_norms else _FUSED + _FAST) + _BOTH
    if device == "cpu":
        return _CPU + norms
    return [offer._replace(dtypes=("float32", "bfloat16")) for offer in norms] + _PADDLE


_FUSED = [
    Offer("rms_norm", external.rms_norm_of("fused_ln", "fused_rms_norm"), "fused_ln", ("fused_rms_norm",)),
    Offer("layer_norm", external.layer_norm_of("fused_ln", "fused_ln"), "fused_ln", ("fused_ln",)),
]
_FAST = [
    Offer("rms_norm", external.rms_norm_of("fast_ln", "fast_rms_norm"), "fast_ln", ("fast_rms_norm",)),
    Offer("layer_norm", external.layer_norm_of("fast_ln", "fast_ln"), "fast_ln", ("fast_ln",)),
]
_CROSS_ENTROPY = ("cross_entropy_parts", "cross_entropy_slopes_")
_BOTH = [
    Offer("rotate", external.rotate, "fused_layers", ("fused_rope",)),
    Offer("swiglu", external.swiglu, "fused_layers", ("fused_swiglu",)),
    Offer("embedding", external.embedding, "fused_layers", ("embedding_grad",)),
    Offer("cross_entropy", external.cross_entropy, "fused_layers", _CROSS_ENTROPY),
    Offer("head_loss", external.head_loss, "fused_layers", _CROSS_ENTROPY),
    Offer("adamw", external.adamw, "fused_layers", ("fused_adamw_",)),
    Offer("squared_norm", external.squared_norm, "fused_layers", ("squared_norm",)),
]
_CPU = [
    Offer("attention", attention.attention, "fused_layers", ("causal_attention", "causal_attention_grad")),
    Offer("head_loss", loss.head_loss, "fused_layers", ("head_loss", "scale_")),
    Offer("add_product", external.add_product, "fused_layers", ("add_product_",)),
]
_PADDLE = [
    Offer("attention", gpu.attention, dtypes=("bfloat16", "float16")),
    Offer("rms_norm", gpu.rms_norm, dtypes=("float32", "bfloat16")),
    Offer("rotate", gpu.rotate, dtypes=("float32", "bfloat16")),
    Offer("linear", gpu.linear, dtypes=("float32", "bfloat16")),
    Offer("add_product", gpu.add_product, dtypes=("bfloat16", "float16")),
]
