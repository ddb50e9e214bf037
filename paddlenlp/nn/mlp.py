"""Feed-forward blocks."""

from __future__ import annotations

from functools import partial
from typing import Any, Callable, Dict, Optional, Tuple

import paddle
from paddle import Tensor, nn
from paddle.nn import functional as F

from paddlenlp.parallel.layers import Linear, columns
from paddlenlp.parallel.layout import Fused
from paddlenlp.utils.errors import UsageError

from . import kernels
from .precision import precision

ACTIVATIONS: Dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "swish": F.silu,
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate=True),
    "gelu_pytorch_tanh": partial(F.gelu, approximate=True),
    "relu": F.relu,
}
"""`hidden_act` of a configuration -> function."""

NAMES = ("gate_proj", "up_proj", "down_proj")
"""Attribute names of the matrices of a GatedMLP, where a family has no others."""


class GatedMLP(nn.Layer):
    """down(act(gate(x)) * up(x)), a row at a time (arXiv:2002.05202); the width is cut over the tensor-parallel ranks.

    Args:
        config: for its sizes.
        activation: a key of ACTIVATIONS.
        bias: whether the three matrices have biases.
        fused: keep gate and up in one matrix.
        names: attribute names of the matrices gate, up and down.
        fused_name: attribute name of the fused matrix.
        up_first: whether the fused matrix has up before gate.
        width: of gate and up; `config.intermediate_size` if None.
        entered: as for `Linear`: rows have entered the cut work, and this gives a tensor-parallel rank's part of the
            sum.
    """

    def __init__(
        self,
        config: Any,
        activation: str,
        bias: bool = False,
        fused: bool = False,
        names: Tuple[str, str, str] = NAMES,
        fused_name: str = "gate_up_fused_proj",
        up_first: bool = False,
        width: Optional[int] = None,
        entered: bool = False,
    ) -> None:
        super().__init__()
        hidden, width = config.hidden_size, config.intermediate_size if width is None else width
        self.gated, self.names, self.fused_name = _gated(activation), names, fused_name if fused else None
        self.up_first = up_first
        fusion = Fused(fused_name, (names[1], names[0]) if up_first else names[:2], (width, width))
        if fused:
            self.add_sublayer(fused_name, Linear(hidden, 2 * width, bias, "column", fusion, entered=entered))
        for name in () if fused else names[:2]:
            self.add_sublayer(name, Linear(hidden, width, bias, "column", fusion, entered=entered))
        down = Linear(width, hidden, bias, "row", init_scale=closing_scale(config), entered=entered)
        self.add_sublayer(names[2], down)

    def forward(self, x: Tensor) -> Tensor:
        if self.fused_name is not None:
            first, second = paddle.chunk(getattr(self, self.fused_name)(x), 2, -1)
            gate, up = (second, first) if self.up_first else (first, second)
        else:
            gate, up = columns(x, [getattr(self, name) for name in self.names[:2]])
        return getattr(self, self.names[2])(self.gated(gate, up))


class MLP(nn.Layer):
    """down(act(up(x))), a row at a time; the width is cut over the tensor-parallel ranks.

    Args:
        config: for its sizes; `intermediate_size` is the width.
        activation: a key of ACTIVATIONS.
        names: attribute names of the two matrices, as the family's checkpoints have them.
        bias: whether they have biases.
    """

    def __init__(
        self,
        config: Any,
        activation: str,
        names: Tuple[str, str] = ("dense_h_to_4h", "dense_4h_to_h"),
        bias: bool = True,
    ) -> None:
        super().__init__()
        hidden, width = config.hidden_size, config.intermediate_size
        self.activation, self.names = _activation(activation), names
        self.add_sublayer(names[0], Linear(hidden, width, bias, "column"))
        self.add_sublayer(names[1], Linear(width, hidden, bias, "row", init_scale=closing_scale(config)))

    def forward(self, x: Tensor) -> Tensor:
        up, down = (getattr(self, name) for name in self.names)
        return down(precision().round(self.activation(up(x))))


def closing_scale(config: Any) -> float:
    """Factor of the initial deviation of the matrices that write to the residual stream (GPT-2, section 2.3).

    It is 1 where the class of `config` sets `closes_smaller` to false.
    """
    return (2 * config.num_hidden_layers) ** -0.5 if getattr(config, "closes_smaller", True) else 1.0


def _activation(name: str) -> Callable[[Tensor], Tensor]:
    if name not in ACTIVATIONS:
        raise UsageError(f"hidden_act={name!r} is not known; known: {', '.join(sorted(ACTIVATIONS))}")
    return ACTIVATIONS[name]


def _gated(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """act(gate) * up."""
    act = _activation(name)
    return kernels.swiglu if act is F.silu else lambda gate, up: precision().round(act(gate) * up)
