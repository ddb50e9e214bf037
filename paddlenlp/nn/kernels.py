"""The one chooser of kernels: layers call the functions below, and `configure` alone decides what runs behind them.

Until `configure` has seen the arguments of a run, and where nothing better is there, the toolkit's own operations run:
on a CPU the float32 ones of `nn/cpu`, on a GPU those of `nn/gpu.py`, elsewhere the plain ones of `nn/plain.py`. No call
looks at flags or environment variables. Results follow the precision policy: where low precision is emulated they are
rounded to its grid.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Set, Tuple

import numpy as np
import paddle
from paddle import Tensor

from paddlenlp.parallel.dropout import own_stream
from paddlenlp.parallel.group import Group
from paddlenlp.utils.errors import UsageError

from . import plain
from .documents import Documents
from .external import FOLDER
from .flags import FLAGS, WORDS
from .offers import Offer, State, judge, offers
from .precision import dtype_name, precision

Kernels = Dict[str, Callable[..., Any]]

GradientSum = Callable[[], Optional[Tensor]]
"""Gives what sums the gradients of a parameter in a step, or None where autograd is to have the gradient. Who sums
gradients sets it as the parameter's attribute `gradient_sum`. A hook of the parameter (`register_hook`) gets None for a
gradient that has been added so."""

COSTS: Dict[str, float] = {}
"""Op -> how many times as long a step of shape A takes on a CPU without its external operation, and "all" without any:
medians of benchmarks/cpu/results/ablation-a.json."""

ABSENT = f"external_ops is not installed (`python3 setup.py install` in {FOLDER} builds it)"

_chosen: Kernels = {}
_states: List[State] = []
_own_threads: Set[str] = set()
_at_once: bool = False
_report: List[str] = []


def configure(*arguments: Any) -> None:
    """Choose the operations of this run for the device Paddle computes on: once, before the model is built.

    Of each operation the first is taken that is there, is not turned off, and gives what the plain one gives: that of
    external_ops; on a GPU Paddle's fused one; the toolkit's own (`nn/cpu`, `nn/gpu.py`); the plain one.

    Args:
        arguments: objects that may have the flags of FLAGS as attributes (TrainingArguments, ModelArguments): "auto",
            "true", "false", "require" or a boolean. A flag that none of them has is "false".

    Raises:
        UsageError: an operation that a flag requires is not there, or a flag is another word.
    """
    global _at_once
    _at_once = paddle.get_device().startswith("cpu")
    device = "cpu" if _at_once else "gpu"
    words = {flag: _word(flag, arguments) for flag in FLAGS}
    asked = _asked(words)
    wanted = [
        offer
        for offer in offers(device, fast_norms=words["use_fast_layer_norm"] in ("true", "require"))
        if words[asked[offer.op]] != "false"
    ]
    used = _use(wanted, judge(wanted, device), _own(device))
    _require(words, used, device)
    _report[:] = _lines(words, asked, used, device)


def report() -> List[str]:
    """For the log: which external operations run; and one line for each reason why others, which were asked for or are
    installed, do not, with what that costs where it has been measured."""
    return list(_report)


def states() -> List[State]:
    """What became of every operation that could have been used."""
    return list(_states)


def each(function: Callable[[Any], Any], parts: Sequence[Any], by: str = "") -> List[Any]:
    """`[function(part) for part in parts]` for independent parts, without gradients.

    On a CPU the parts run at once, since most of Paddle's operations there use one thread; put the largest first.
    They run in turn where the operation `by` that the function calls takes all threads itself.
    """
    from .cpu import threads

    return threads.run(function, parts) if _at_once and by not in _own_threads else [function(part) for part in parts]


@contextmanager
def wrapped(wrap: Callable[[str, Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """In the block, operation `name` is `wrap(name, operation)`."""
    before = dict(_chosen)
    _chosen.update({name: wrap(name, kernel) for name, kernel in before.items()})
    try:
        yield
    finally:
        _chosen.update(before)


def _word(flag: str, holders: Sequence[Any]) -> str:
    value = next((getattr(holder, flag) for holder in holders if hasattr(holder, flag)), False)
    word = str(value).lower() if isinstance(value, bool) else value
    if word not in WORDS:
        raise UsageError(f"{flag} must be one of {', '.join(WORDS)}; found {value!r}")
    return word


def _asked(words: Mapping[str, str]) -> Dict[str, str]:
    """Op -> the flag that decides about it."""
    asked: Dict[str, str] = {}
    for flag, ops in FLAGS.items():
        asked.update({op: flag for op in ops if op not in asked or words[flag] in ("true", "require")})
    return asked


def _own(device: str) -> Kernels:
    """The toolkit's own operations."""
    from . import cpu, gpu

    return {
        **{name: getattr(plain, name) for name in plain.KERNELS},
        **(cpu.kernels() if device == "cpu" else gpu.ALWAYS),
    }


def _use(wanted: Sequence[Offer], judged: Sequence[State], own: Kernels) -> Dict[str, State]:
    """Put the first sound offer of each op, else the own operation, into place. Gives the states of the offers used."""
    used: Dict[str, State] = {}
    _chosen.clear()
    _chosen.update(own)
    _states.clear()
    for offer, state in zip(wanted, judged):
        if state.agrees and offer.op not in used:
            used[offer.op] = state = state._replace(used=True)
            _chosen[offer.op] = offer.kernel
        elif state.agrees:
            state = state._replace(reason=f"{used[offer.op].module}'s comes first")
        _states.append(state)
    _own_threads.clear()
    _own_threads.update(op for op, state in used.items() if state.module != "Paddle")
    return used


def _require(words: Mapping[str, str], used: Mapping[str, State], device: str) -> None:
    """Raise if something that is required is not there."""
    lacking = [
        f"{flag} is require, but there is no fused {op} here: {_reason(op, device)}"
        for flag, word in words.items()
        for op in FLAGS[flag] or ("dropout and addition",)
        if word == "require" and op not in used
    ]
    if lacking:
        raise UsageError("\n".join([*lacking, "Set the flag to auto to train with the toolkit's own operation."]))


def _reason(op: str, device: str) -> str:
    """Why no offer of the op is used."""
    if op not in _chosen:
        return "no layer adds what it drops"
    reasons = [state.reason for state in _states if state.op == op]
    if reasons and not any(state.built for state in _states if state.module != "Paddle"):
        return ABSENT
    return reasons[0] if reasons else f"there is none for {device.upper()}s"


def _lines(words: Mapping[str, str], asked: Mapping[str, str], used: Mapping[str, State], device: str) -> List[str]:
    lines = []
    if used:
        running = [f"{op} of {state.module}" for op, state in used.items()]
        lines.append(f"Fused operations, checked against the plain ones: {', '.join(running)}")
    for op, state in used.items():
        better = [other for other in _states[: _states.index(state)] if other.op == op and other.built]
        lines += [f"{op} of {state.module} in place of {other.module}'s: {other.reason}" for other in better]
    absent: Dict[str, List[str]] = {}
    for op, flag in asked.items():
        if op not in used and (words[flag] == "true" or any(state.op == op for state in _states)):
            absent.setdefault(_reason(op, device), []).append(op)
    lines += [_absent_line(ops, reason) for reason, ops in absent.items()]
    if words["use_fused_dropout_add"] == "true":
        lines.append("use_fused_dropout_add: plain dropout and addition instead, because no layer adds what it drops")
    return lines


def _absent_line(ops: Sequence[str], reason: str) -> str:
    line = f"{', '.join(ops)}: the toolkit's own instead of fused ones, because {reason}"
    known = [COSTS[op] for op in (["all"] if reason == ABSENT else ops) if op in COSTS]
    return line + (f"; a training step on a CPU takes about {max(known):.2f} times as long" if known else "")


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
    slopes: Optional[np.ndarray] = None,
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
        slopes: float32 [h]: slope * (place of the key - place of the query) is added to the scaled scores.
        scale: factor of q k'; 1 / sqrt(d) if None.
        window: a query sees only keys less than `window` positions back.
        dropout: rate at which probabilities are dropped.

    Returns:
        [b, s, h, dv]
    """
    options = {"mask": mask, "documents": documents, "bias": bias, "slopes": slopes, "scale": scale, "window": window}
    with own_stream() if dropout else nullcontext():  # each rank has other heads
        y = _chosen["attention"](q, k, v, dropout=dropout, **options)
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


def adds_products(weight: Tensor) -> bool:
    """Whether weight [in, out] gets its gradient from a product that can add it to a sum: where it is fused, and the
    parameter itself is what rows are multiplied with."""
    policy = precision()
    used = any(state.used and state.op == "add_product" for state in _states)
    return used and weight.ndim == 2 and not policy.emulated and dtype_name(weight) == policy.compute


def weight_gradient(x: Tensor, grad: Tensor, gradient_sum: Optional[GradientSum] = None) -> Optional[Tensor]:
    """x' grad: the gradient of a matrix [in, out] that rows x [rows, in] were multiplied with, for grad [rows, out].

    Args:
        gradient_sum: where it gives a float32 tensor [in, out] the gradient is added to that, in place, and None is
            the result.
    """
    total = gradient_sum() if gradient_sum is not None else None
    if total is None:
        return paddle.matmul(x, grad, transpose_x=True)
    _chosen["add_product"](total, x, grad)
    return None


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


def adamw(
    weight: Tensor,
    gradient: Tensor,
    moments: Tuple[Tensor, Tensor],
    powers: Tuple[Tensor, Tensor],
    *,
    lr: float,
    betas: Tuple[float, float],
    epsilon: float,
    decay: float,
    factor: float,
) -> None:
    """One step of AdamW (Loshchilov and Hutter, arXiv:1711.05101), in place; without gradients.

    With g = factor * gradient and t the number of the step:
    m1 = beta1 m1 + (1 - beta1) g; m2 = beta2 m2 + (1 - beta2) g^2; weight *= 1 - lr * decay;
    weight -= lr * m1 / (1 - beta1^t) / (sqrt(m2 / (1 - beta2^t)) + epsilon).

    Args:
        weight, gradient, moments: float32 of one shape. The gradient may be overwritten.
        powers: float32 [1] on the host: beta1^t and beta2^t, which become those of the next step.
    """
    _chosen["adamw"](weight, gradient, moments, powers, lr=lr, betas=betas, epsilon=epsilon, decay=decay, factor=factor)


def squared_norm(x: Tensor) -> Tensor:
    """Sum of the squares of all elements, float32 [1]."""
    return _chosen["squared_norm"](x)


configure()
