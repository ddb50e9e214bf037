"""Modules that look like those of external_ops, written into a folder: what is in them is up to the test."""

from __future__ import annotations

import sys

FUSED_LN = """
from paddlenlp.nn import plain
def fused_rms_norm(x, scale, epsilon):
    assert x.ndim == 2
    return [plain.rms_norm(x, scale, epsilon), None]
def fused_ln(x, scale, bias, epsilon):
    return [plain.layer_norm(x, scale, bias, epsilon), None, None]
"""

FUSED_LAYERS = """
import paddle
from paddlenlp.nn import plain
def fused_rope(x, cos, sin, interleaved):
    return plain.rotate(x, cos, sin, interleaved)
def fused_swiglu(gate, up):
    return plain.swiglu(gate, up)
def embedding_grad(ids, grad, rows):
    return paddle.zeros([rows, grad.shape[1]]).index_add(ids, 0, grad)
def cross_entropy_parts(logits, labels, first):
    top = logits.max(-1)
    here = (labels >= first) & (labels < first + logits.shape[1])
    own = paddle.where(here, labels - first, paddle.zeros_like(labels)).unsqueeze(-1)
    picked = paddle.take_along_axis(logits, own, 1).squeeze(-1) * here.astype("float32")
    return [top, paddle.exp(logits - top.unsqueeze(-1)).sum(-1), picked]
def cross_entropy_slopes_(logits, labels, log_sum, first, scale):
    columns = paddle.arange(first, first + logits.shape[1])
    chosen = (labels.unsqueeze(-1) == columns).astype("float32")
    slopes = (paddle.exp(logits - log_sum.unsqueeze(-1)) - chosen) * scale
    paddle.assign(slopes * (labels >= 0).astype("float32").unsqueeze(-1), output=logits)
def fused_adamw_(weight, moment1, moment2, gradient, lr, beta1, beta2, epsilon, decay, correction1, correction2, factor
):
    g = gradient * factor
    paddle.assign(moment1 * beta1 + g * (1 - beta1), output=moment1)
    paddle.assign(moment2 * beta2 + g * g * (1 - beta2), output=moment2)
    step = moment1 / correction1 / (paddle.sqrt(moment2 / correction2) + epsilon)
    paddle.assign(weight * (1 - lr * decay) - lr * step, output=weight)
def squared_norm(x):
    return (x * x).sum().reshape([1])
"""

MODULES = ("fused_ln", "fast_ln", "fused_layers")


def install(monkeypatch, folder, **sources):
    """Put modules with these sources, and none of an installation, where Python finds them."""
    for name, source in sources.items():
        (folder / f"{name}.py").write_text(source, encoding="utf-8")
    for name in MODULES:
        monkeypatch.setitem(sys.modules, name, None)
        if name in sources:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(folder))
