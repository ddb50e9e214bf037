"""Feed-forward blocks."""

from __future__ import annotations

from functools import partial
from typing import Any, Callable, Dict

import paddle
from paddle import Tensor, nn
from paddle.nn import functional as F

from paddlenlp.parallel.layers import Linear
from paddlenlp.parallel.layout import Fused
from paddlenlp.utils.errors import UsageError

from . import kernels

ACTIVATIONS: Dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "swish": F.silu,
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate=True),
    "gelu_pytorch_tanh": partial(F.gelu, approximate=True),
    "relu": F.relu,
}
"""`hidden_act` of a configuration -> function."""


class GatedMLP(nn.Layer):
    """down(act(gate(x)) * up(x)), a row at a time (arXiv:2002.05202).

    Args:
        config: for its sizes.
        activation: a key of ACTIVATIONS.
        bias: whether the three matrices have biases.
        fused: keep gate and up in one matrix `gate_up_fused_proj`.
    """

    def __init__(self, config: Any, activation: str, bias: bool = False, fused: bool = False) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise UsageError(f"hidden_act={activation!r} is not known; known: {', '.join(sorted(ACTIVATIONS))}")
        hidden, width = config.hidden_size, config.intermediate_size
        self.fused, self.gate = fused, _gate(activation)
        fusion = Fused("gate_up_fused_proj", ("gate_proj", "up_proj"), (width, width))
        if fused:
            self.gate_up_fused_proj = Linear(hidden, 2 * width, bias, "column", fusion)
        else:
            self.gate_proj = Linear(hidden, width, bias, "column", fusion)
            self.up_proj = Linear(hidden, width, bias, "column", fusion)
        self.down_proj = Linear(width, hidden, bias, "row", init_scale=(2 * config.num_hidden_layers) ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        if self.fused:
            gate, up = paddle.chunk(self.gate_up_fused_proj(x), 2, -1)
        else:
            gate, up = self.gate_proj(x), self.up_proj(x)
        return self.down_proj(self.gate(gate, up))


def _gate(activation: str) -> Callable[[Tensor, Tensor], Tensor]:
    """act(gate) * up."""
    act = ACTIVATIONS[activation]
    return kernels.swiglu if act is F.silu else lambda gate, up: act(gate) * up
