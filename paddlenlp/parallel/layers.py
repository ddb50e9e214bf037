"""Linear and Embedding that know how they are cut over the tensor-parallel ranks. In one process they are the plain
layers."""

from __future__ import annotations

from typing import Optional, Sequence, Tuple

from paddle import Tensor, nn

from paddlenlp.nn import kernels

from .layout import REPLICATED, Fused, Layout


class Linear(nn.Layer):
    """y = x W + b over rows: x [..., in], W [in, out], b [out].

    Args:
        in_features, out_features: sizes of the whole matrix.
        bias: whether there is a bias.
        split: "column" cuts the outputs, "row" the inputs, None keeps the matrix whole.
        fusion: what the matrix is made of, or is a part of; see `Fused`.
        init_scale: factor of the model's initial deviation for this matrix.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        split: Optional[str] = None,
        fusion: Optional[Fused] = None,
        init_scale: float = 1.0,
    ) -> None:
        super().__init__()
        layout, bias_layout = _layouts(split, out_features, fusion)
        self.weight = make_parameter(self, [in_features, out_features], layout, init_scale=init_scale)
        self.weight.transposed = True
        self.bias = make_parameter(self, [out_features], bias_layout) if bias else None
        for param in (self.weight, self.bias) if fusion is not None else ():
            if param is not None:
                param.fusion = fusion

    def forward(self, x: Tensor) -> Tensor:
        return kernels.linear(x, self.weight, self.bias)


class Embedding(nn.Layer):
    """Rows of a token table that is cut over the vocabulary: ids [...] -> [..., hidden]."""

    def __init__(self, vocab_size: int, hidden_size: int) -> None:
        super().__init__()
        self.weight = make_parameter(self, [vocab_size, hidden_size], Layout(0), init_scale=1.0)

    def forward(self, ids: Tensor) -> Tensor:
        return kernels.embedding(ids, self.weight)


def make_parameter(
    layer: nn.Layer,
    shape: Sequence[int],
    layout: Layout = REPLICATED,
    value: float = 0.0,
    init_scale: Optional[float] = None,
) -> Tensor:
    """A parameter of `layer` with what every parameter must say of itself.

    Args:
        layer: the layer that makes it; its dtype is the storage dtype.
        shape: shape of the whole parameter.
        layout: how it is cut, later read as `param.tp_layout`.
        value: constant it starts from, where no normal distribution is drawn.
        init_scale: factor of the model's initial deviation, where a normal distribution is drawn.

    Attributes set on the parameter: `tp_layout`, `whole_shape`, `transposed` (true where Hugging Face keeps [out,
        in]), `init_scale`.
    """
    param = layer.create_parameter(list(shape), default_initializer=nn.initializer.Constant(value))
    param.tp_layout = layout
    param.whole_shape = tuple(shape)
    param.transposed = False
    param.init_scale = init_scale
    return param


def _layouts(split: Optional[str], out_features: int, fusion: Optional[Fused]) -> Tuple[Layout, Layout]:
    """Layouts of the matrix and of its bias."""
    if split is None:
        return REPLICATED, REPLICATED
    if split == "row":
        return Layout(0), REPLICATED
    blocks: Tuple[int, ...] = ()
    if fusion is not None and fusion.groups == 1 and out_features == sum(fusion.sizes):
        blocks = fusion.sizes
    return Layout(1, blocks), Layout(0, blocks)
