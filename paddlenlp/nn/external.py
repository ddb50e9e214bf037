"""The operations of external_ops behind the signatures of `nn/kernels.py`; the only file that imports its modules.

They are imported when they are first asked for, and called only after `nn/kernels.py` has tried them out. What an
operation can't do is left to the plain version.
"""

from __future__ import annotations

import importlib.util
from typing import Any, Callable, Optional, Tuple

import paddle
from paddle import Tensor
from paddle.autograd import PyLayer
from paddle.nn import functional as F

from paddlenlp.parallel.group import Group
from paddlenlp.utils.pylayer import save

from . import head_rows, plain

FOLDER = "slm/model_zoo/gpt-3/external_ops"


def is_built(module: str) -> bool:
    """Whether the module is installed, whatever it is worth."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def load(module: str) -> Any:
    """The module, imported if need be.

    Raises:
        Exception: whatever importing it raises. A damaged file may even end the process.
    """
    if module == "fused_ln":
        import fused_ln as found
    elif module == "fast_ln":
        import fast_ln as found
    else:
        import fused_layers as found
    return found


def lacking(module: str, functions: Tuple[str, ...]) -> str:
    """Which of the functions a module that has been imported lacks, in words; "" if none."""
    absent = [name for name in functions if not hasattr(load(module), name)]
    return f"it has no {' and no '.join(absent)}, so it is of another version" if absent else ""


def function(module: str, name: str) -> Callable[..., Any]:
    """A function of a built module."""
    return getattr(load(module), name)


def rms_norm_of(module: str, name: str) -> Callable[..., Tensor]:
    """RMSNorm as the function `name` of `module` computes it."""

    def rms_norm(x: Tensor, weight: Tensor, eps: float, offset: float = 0.0) -> Tensor:
        if not _fits(x):
            return plain.rms_norm(x, weight, eps, offset)
        weight = weight.astype(x.dtype)
        rows = x.reshape([-1, x.shape[-1]])
        return function(module, name)(rows, weight + offset if offset else weight, eps)[0].reshape(x.shape)

    return rms_norm


def layer_norm_of(module: str, name: str) -> Callable[..., Tensor]:
    """LayerNorm as the function `name` of `module` computes it; without a bias the plain one."""

    def layer_norm(x: Tensor, weight: Tensor, bias: Optional[Tensor], eps: float) -> Tensor:
        if bias is None or not _fits(x):
            return plain.layer_norm(x, weight, bias, eps)
        rows = x.reshape([-1, x.shape[-1]])
        return function(module, name)(rows, weight.astype(x.dtype), bias.astype(x.dtype), eps)[0].reshape(x.shape)

    return layer_norm


def rotate(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False) -> Tensor:
    """One pass, without tables as wide as x."""
    if not _fits(x):
        return plain.rotate(x, cos, sin, interleaved)
    return function("fused_layers", "fused_rope")(x, cos, sin, interleaved)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """One pass; for the backward pass only gate and up are kept."""
    if not (_fits(gate) and gate.dtype == up.dtype):
        return plain.swiglu(gate, up)
    return function("fused_layers", "fused_swiglu")(gate, up)


def add_product(total: Tensor, x: Tensor, grad: Tensor) -> None:
    """One product that begins with what is there."""
    if x.dtype == paddle.float32:
        function("fused_layers", "add_product_")(total, x, grad)
    else:
        plain.add_product(total, x, grad)


def embedding(ids: Tensor, weight: Tensor) -> Tensor:
    """Paddle's, whose gradient is summed by rows in all threads."""
    return _Embedding.apply(ids, weight) if _fits(weight) else plain.embedding(ids, weight)


class _Embedding(PyLayer):
    @staticmethod
    def forward(ctx: Any, ids: Tensor, weight: Tensor) -> Tensor:
        ctx.rows = weight.shape[0]
        save(ctx, ids)
        return F.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tuple[Any, ...]:
        (ids,) = ctx.saved_tensor()
        rows = grad.reshape([-1, grad.shape[-1]])
        return None, function("fused_layers", "embedding_grad")(ids.reshape([-1]), rows, ctx.rows)


def cross_entropy(logits: Tensor, labels: Tensor, group: Group = plain.SOLO) -> Tensor:
    """Two passes over the logits of this rank, between which three numbers of each row are exchanged."""
    return _CrossEntropy.apply(logits, labels, group) if _fits(logits) else plain.cross_entropy(logits, labels, group)


class _CrossEntropy(PyLayer):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, group: Group) -> Tensor:
        losses, slopes = _losses_and_slopes(logits.clone(), labels, group)
        save(ctx, slopes)
        return losses

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tuple[Any, ...]:
        (slopes,) = ctx.saved_tensor()
        return slopes * grad.astype(slopes.dtype).unsqueeze(-1), None


def head_loss(x: Tensor, weight: Tensor, labels: Tensor, transpose: bool = False, group: Group = plain.SOLO) -> Tensor:
    """The logits of a block of rows become their gradients in place."""
    if not _fits(x):
        return plain.head_loss(x, weight, labels, transpose, group)
    return head_rows.head_loss(x, weight, labels, transpose, group, _slopes, plain.HEAD_ROWS)


def _slopes(x: Tensor, weight: Tensor, labels: Tensor, transpose: bool, group: Group) -> Tuple[Tensor, Tensor]:
    losses, slopes = _losses_and_slopes(paddle.matmul(x, weight, transpose_y=transpose), labels, group)
    return slopes, losses.sum()


def _losses_and_slopes(logits: Tensor, labels: Tensor, group: Group) -> Tuple[Tensor, Tensor]:
    """See `cut_loss.losses_and_slopes`; what is exchanged is the same, so that ranks may differ in how they do it."""
    first = logits.shape[1] * group.rank
    top, total, picked = function("fused_layers", "cross_entropy_parts")(logits, labels, first)
    if group.size > 1:
        rows = group.all_gather(paddle.stack([top, total, picked])).wait()
        tops, sums, answers = rows.reshape([group.size, 3, -1]).unbind(1)
        top, picked = tops.max(0), answers.sum(0)
        total = (sums * paddle.exp(tops - top)).sum(0)
    log_sum = top + paddle.log(total)
    losses = (log_sum - picked) * (labels >= 0).astype("float32")
    function("fused_layers", "cross_entropy_slopes_")(logits, labels, log_sum, first, 1.0)
    return losses, logits


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
    """One pass over weight, gradient and moments in all threads; the gradient is not scaled in memory."""
    numbers = (lr, *betas, epsilon, decay, *(1.0 - power.item() for power in powers), factor)
    weight = weight.detach()  # the same memory: Paddle lets no operation change a parameter itself in place
    function("fused_layers", "fused_adamw_")(weight, *moments, gradient, *numbers)
    for power, beta in zip(powers, betas):
        power.scale_(beta)


def squared_norm(x: Tensor) -> Tensor:
    """Sum of the squares of all elements, float32 [1]."""
    return function("fused_layers", "squared_norm")(x)


def _fits(x: Tensor) -> bool:
    """Whether there is an operation for the dtype: on a CPU for float32 only."""
    return x.dtype == paddle.float32 or x.place.is_gpu_place()
