"""Paddle's GPU operations behind the signatures of `nn/kernels.py`.

What an operation can't do is left to the plain version.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, Optional

import numpy as np
import paddle
from paddle import Tensor, _C_ops
from paddle.nn import functional as F

from paddlenlp.parallel.group import Group

from . import plain
from .documents import Documents


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
    """Flash attention (arXiv:2307.08691) for float16 and bfloat16 without mask, bias, slopes, window or cached keys.

    Documents are given to it as so many sequences of their own lengths. Values narrower than the keys (latent
    attention) get columns of zeros, since it takes one width only.
    """
    special = any(rule is not None for rule in (mask, bias, slopes, window)) or q.shape[1] != k.shape[1]
    if special or q.dtype == paddle.float32 or q.shape[-1] < v.shape[-1]:
        options: Dict[str, Any] = {"mask": mask, "documents": documents, "bias": bias, "slopes": slopes}
        options.update(scale=scale, window=window)
        return plain.attention(q, k, v, dropout=dropout, **options)
    width, scale = v.shape[-1], q.shape[-1] ** -0.5 if scale is None else scale
    if width < q.shape[-1]:
        v = paddle.concat([v, paddle.zeros([*v.shape[:3], q.shape[-1] - width], v.dtype)], -1)
    if documents is not None:
        y = _by_documents(q, k, v, documents, scale, dropout)
    else:
        y = F.flash_attention.flash_attention(q, k, v, dropout=dropout, causal=True, softmax_scale=scale)[0]
    return y if width == v.shape[-1] else y[..., :width]


def _by_documents(q: Tensor, k: Tensor, v: Tensor, documents: Documents, scale: float, dropout: float) -> Tensor:
    offsets, longest = documents.sequences()
    bounds = offsets, offsets, longest, longest
    q1, k1, v1 = (x.flatten(0, 1) for x in (q, k, v))
    y = F.flash_attention.flash_attn_unpadded(q1, k1, v1, *bounds, scale=scale, dropout=dropout, causal=True)[0]
    return y.reshape([*q.shape[:3], v.shape[-1]])


def rms_norm(x: Tensor, weight: Tensor, eps: float, offset: float = 0.0) -> Tensor:
    """One fused pass."""
    from paddle.incubate.nn.functional import fused_rms_norm

    weight = (weight + offset if offset else weight).astype(x.dtype)
    return fused_rms_norm(x, weight, None, eps, begin_norm_axis=x.ndim - 1)[0]


def rotate(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False) -> Tensor:
    """One fused pass where all rows of the batch stand at the same positions."""
    from paddle.incubate.nn.functional import fused_rotary_position_embedding

    if cos.shape[0] != 1:
        return plain.rotate(x, cos, sin, interleaved)
    cos, sin = (_both(y, interleaved).astype(x.dtype) for y in (cos, sin))
    return fused_rotary_position_embedding(x, sin=sin, cos=cos, use_neox_rotary_style=interleaved)[0]


def _both(y: Tensor, interleaved: bool) -> Tensor:
    """[1, s, 1, d/2] -> [1, s, 1, d]: the angle of each feature's pair."""
    return y.repeat_interleave(2, -1) if interleaved else paddle.concat([y, y], -1)


def linear(x: Tensor, weight: Tensor, bias: Optional[Tensor] = None) -> Tensor:
    """The bias is added inside the matrix product."""
    from paddle.incubate.nn.functional import fused_linear

    return plain.linear(x, weight) if bias is None else fused_linear(x, weight, bias)


def add_product(total: Tensor, x: Tensor, grad: Tensor) -> None:
    """One product that begins with what is there: the sum is never rounded to the dtype of x."""
    if x.dtype == paddle.float32:
        plain.add_product(total, x, grad)
    else:
        _C_ops.fused_linear_param_grad_add(x, grad, total, None, True, False)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """One fused pass."""
    return F.swiglu(gate, up)


def cross_entropy(logits: Tensor, labels: Tensor, group: Group = plain.SOLO) -> Tensor:
    """Paddle's, which takes the logarithm before the exponential on GPUs, where the logits are whole."""
    if group.size > 1:
        return plain.cross_entropy(logits, labels, group)
    loss = F.cross_entropy(logits.astype("float32"), labels.unsqueeze(-1), ignore_index=plain.IGNORED, reduction="none")
    return loss.squeeze(-1)


def head_loss(x: Tensor, weight: Tensor, labels: Tensor, transpose: bool = False, group: Group = plain.SOLO) -> Tensor:
    """The plain blocks of rows with Paddle's cross entropy."""
    return plain.head_loss(x, weight, labels, transpose, group, cross_entropy)


ALWAYS: Dict[str, Callable[..., Tensor]] = {"swiglu": swiglu, "cross_entropy": cross_entropy, "head_loss": head_loss}
"""Kernels that run on every GPU."""
