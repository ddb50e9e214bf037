"""Blocked attention: memory grows as the length of the sequence, and what no query sees is not computed."""

from __future__ import annotations

from typing import Any, Dict, Optional, Tuple

import numpy as np
import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

from paddlenlp.utils.pylayer import needed, note_frozen, save

from .. import external
from ..cpu import attention as by_blocks
from ..documents import Documents


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
    """See `kernels.attention`. What has a mask, bias or dropout, or is not float32, is left to the one of `nn/cpu`."""
    if mask is not None or bias is not None or dropout or any(x.dtype != paddle.float32 for x in (q, k, v)):
        options: Any = {"mask": mask, "documents": documents, "bias": bias, "slopes": slopes}
        options.update(scale=scale, window=window)
        return by_blocks.attention(q, k, v, dropout=dropout, **options)
    starts = None if documents is None else documents.starts()
    rules = {"scale": q.shape[-1] ** -0.5 if scale is None else scale, "window": window or 0, "starts": starts}
    if slopes is not None:
        rules["slopes"] = paddle.to_tensor(slopes, "float32")
    return _Attention.apply(q, k, v, rules)


class _Attention(PyLayer):
    """Keeps the inputs, the output and the logarithms of the sums of exponentials; scores are made again."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, rules: Dict[str, Any]) -> Tensor:
        note_frozen(ctx, q, k, v)
        ctx.rules = rules
        y, log_sums = external.function("fused_layers", "causal_attention")(q, k, v, **rules)
        save(ctx, q, k, v, y, log_sums)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tuple[Any, ...]:
        backward = external.function("fused_layers", "causal_attention_grad")
        return needed(ctx, backward(*ctx.saved_tensor(), grad, **ctx.rules))
