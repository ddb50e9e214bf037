"""Linear and Embedding that know how they are cut over the tensor-parallel ranks. In one process they are the plain
layers."""

from __future__ import annotations

from typing import Any, List, Optional, Sequence, Tuple

import numpy as np
import paddle
from paddle import Tensor, nn

from paddlenlp.nn import kernels
from paddlenlp.nn.precision import DType, precision

from . import comm
from .layout import REPLICATED, Fused, Layout, equal_share
from .products import column_products, own_product, row_product
from .topology import topology


class Linear(nn.Layer):
    """y = x W + b over rows: x [rows, in], W [in, out], b [out].

    A column-cut one takes all features of a row and gives this rank's; a row-cut one takes this rank's and gives all.
    Between them rows are whole; outside, under sequence parallelism, each rank has its own.

    Args:
        in_features, out_features: sizes of the whole matrix.
        bias: whether there is a bias.
        split: "column" cuts the outputs, "row" the inputs, None keeps the matrix whole.
        fusion: what the matrix is made of, or is a part of; see `Fused`.
        init_scale: factor of the model's initial deviation for this matrix.
        units: of a column-cut matrix, the heads that can be copied, for each of its parts; see `Layout`.
        entered: the caller has entered and will leave (`comm.enter`, `comm.leave`) for several layers at once, so
            this one communicates nothing: a row-cut one gives this rank's part of the sum. It has no bias then.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        split: Optional[str] = None,
        fusion: Optional[Fused] = None,
        init_scale: float = 1.0,
        units: Tuple[int, ...] = (),
        entered: bool = False,
    ) -> None:
        super().__init__()
        assert not (bias and entered and split == "row"), "a bias is added after the sum, which is the caller's"
        self.split = None if entered else split
        layout, bias_layout = _layouts(split, out_features, fusion, units)
        self.weight = make_parameter(self, [in_features, out_features], layout, init_scale=init_scale)
        self.weight.transposed = True
        self.bias = make_parameter(self, [out_features], bias_layout) if bias else None
        for param in (self.weight, self.bias) if fusion is not None else ():
            if param is not None:
                param.fusion = fusion

    def forward(self, x: Tensor) -> Tensor:
        if self.split is None or topology().tp.size == 1:
            return kernels.linear(x, self.weight, self.bias) if self.weight.gradient_sum is None else self._own(x)
        return columns(x, [self])[0] if self.split == "column" else self._sum_of_rows(x)

    def _own(self, x: Tensor) -> Tensor:
        policy = precision()
        bias = None if self.bias is None else policy.to_compute(self.bias)
        return policy.round(own_product(policy.to_compute(x), policy.to_compute(self.weight), bias))

    def _sum_of_rows(self, x: Tensor) -> Tensor:
        policy = precision()
        y = row_product(policy.to_compute(x), policy.to_compute(self.weight))
        return policy.round(y if self.bias is None else y + policy.to_compute(self.bias))


def columns(x: Tensor, layers: Sequence[Linear]) -> List[Tensor]:
    """`[layer(x) for layer in layers]` of column-cut layers that read the same rows, which enter once for all."""
    if topology().tp.size == 1 or any(layer.split != "column" for layer in layers):
        return [layer(x) for layer in layers]
    policy = precision()
    weights = [policy.to_compute(layer.weight) for layer in layers]
    biases = [None if layer.bias is None else policy.to_compute(layer.bias) for layer in layers]
    shared = [_copied_columns(layer.weight) for layer in layers]
    return [policy.round(y) for y in column_products(policy.to_compute(x), weights, biases, shared)]


class Embedding(nn.Layer):
    """Rows of a token table that is cut over the vocabulary: ids [tokens] -> [tokens, hidden].

    Every tensor-parallel rank gets the ids of all tokens; under sequence parallelism it gives its own rows.

    Args:
        vocab_size, hidden_size: sizes of the whole table.
        scale: factor of the rows, taken in the compute dtype.
    """

    def __init__(self, vocab_size: int, hidden_size: int, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        equal_share(vocab_size, topology().tp.size, "vocab_size")
        self.weight = make_parameter(self, [vocab_size, hidden_size], Layout(0), init_scale=1.0)

    def forward(self, ids: Tensor) -> Tensor:
        rows = self._rows(ids)
        if self.scale == 1.0:
            return rows
        policy = precision()
        return policy.round(rows * policy.round(paddle.full([], self.scale, rows.dtype)))

    def _rows(self, ids: Tensor) -> Tensor:
        if topology().tp.size == 1:
            return kernels.embedding(ids, self.weight)
        own = ids - self.weight.shape[0] * topology().tp.rank
        here = (own >= 0) & (own < self.weight.shape[0])
        rows = kernels.embedding(paddle.where(here, own, paddle.zeros_like(own)), self.weight)
        return comm.leave(rows * here.astype(rows.dtype).unsqueeze(-1))


def make_parameter(
    layer: nn.Layer,
    shape: Sequence[int],
    layout: Layout = REPLICATED,
    value: float = 0.0,
    init_scale: Optional[float] = None,
    partial_grad: Optional[str] = None,
    expert: bool = False,
    dtype: Optional[DType] = None,
) -> Tensor:
    """This rank's share of a parameter of `layer`, with what every parameter must say of itself.

    Args:
        layer: the layer that makes it; its dtype is the storage dtype.
        shape: shape of the whole parameter.
        layout: how it is cut, later read as `param.tp_layout`.
        value: constant it starts from, where no normal distribution is drawn.
        init_scale: factor of the model's initial deviation, where a normal distribution is drawn.
        partial_grad: when the gradient of a parameter that every tensor-parallel rank holds whole is a part of the
            sum: under "sequence" parallelism, since each rank sees its own rows (None: this), "always", since each
            sees its own features, or "never".
        expert: whether it belongs to an expert that is dealt out over the ranks of `ep`.
        dtype: in which it is stored, where that is not the layer's.

    Attributes set on the parameter: `tp_layout`, `whole_shape`, `transposed` (true where Hugging Face keeps [out,
    in]), `init_scale`, `partial_grad` ("never" for a cut one), `expert`, `copies` (how many tensor-parallel ranks hold
    an element: a number, or float32 of the parameter's shape where elements differ), `tied_ends` (whether both
    pipeline ends hold it), `gradient_sum` (a `kernels.GradientSum`, or None).

    Raises:
        UsageError: the ranks cannot share it.
    """
    size = topology().tp.size
    share = layout.share_shape(shape, size)
    param = layer.create_parameter(share, dtype=dtype, default_initializer=nn.initializer.Constant(value))
    param.tp_layout = layout
    param.whole_shape = tuple(shape)
    param.transposed = False
    param.init_scale = init_scale
    param.partial_grad = (partial_grad or "sequence") if layout.axis is None else "never"
    param.expert = expert
    param.copies = _copies(layout, shape, share, size)
    param.tied_ends = False
    param.gradient_sum = None
    return param


def _copies(layout: Layout, shape: Sequence[int], share: Sequence[int], size: int) -> Any:
    """How many of `size` ranks hold each element of a share."""
    if layout.axis is None:
        return size
    found = layout.copies(shape[layout.axis], size)
    if (found == found[0]).all():
        return int(found[0])
    along = [1] * len(share)
    along[layout.axis] = -1
    return paddle.to_tensor(np.broadcast_to(found.reshape(along), share))


def _copied_columns(weight: Tensor) -> List[Tuple[int, int, int]]:
    """(start, stop, copies) of the columns of this rank's share that other ranks hold too."""
    tp, at, found = topology().tp, 0, []
    for start, stop, copies in weight.tp_layout.spans(weight.whole_shape[-1], tp.rank, tp.size):
        if copies > 1:
            found.append((at, at + stop - start, copies))
        at += stop - start
    return found


def _layouts(
    split: Optional[str], out_features: int, fusion: Optional[Fused], units: Tuple[int, ...]
) -> Tuple[Layout, Layout]:
    """Layouts of the matrix and of its bias."""
    if split is None:
        return REPLICATED, REPLICATED
    if split == "row":
        return Layout(0), REPLICATED
    if fusion is not None and out_features == sum(fusion.sizes):
        form = fusion.sizes, units, fusion.groups
        return Layout(1, *form), Layout(0, *form)
    return Layout(1, units=units), Layout(0, units=units)
