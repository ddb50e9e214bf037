"""How large a whole model is and how much it computes, asked of its layers, whatever share of them a process holds.

The usual convention (Chowdhery et al., arXiv:2204.02311, appendix B): 6 N + 12 L h d s operations for the forward and
backward pass of one token in a sequence of s. N counts the matrices each token is multiplied by: all but the embedding,
whose rows are looked up, with the head even where it shares the embedding's weight; of experts, as many as work on a
token. L, h and d are layers, query heads and their width: scores and the weighted sum over all s positions, the causal
half not deducted; where keys are of another width than values, h d is half the sum of both. A multiplication and an
addition are two operations; the backward pass costs twice the forward pass; recomputing is not counted.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import paddle
from paddle import Tensor, nn

from paddlenlp.parallel.layers import Linear
from paddlenlp.parallel.topology import topology

from .attention import Attention
from .head import LMHead
from .local_filter import Taps
from .moe_router import Router


class ModelSize(NamedTuple):
    """Sums over a model.

    Attributes:
        parameters: a shared one is counted once.
        multiplied: elements of the matrices that a token is multiplied by.
        pairs: multiplications of a token with another, in the scores and weighted sums of all layers.
    """

    parameters: int
    multiplied: float
    pairs: float

    def flops_per_token(self, seq_length: int) -> float:
        """Operations of the forward and backward pass of one token in a sequence of `seq_length` tokens."""
        return 6.0 * (self.multiplied + self.pairs * seq_length)


def measure(model: nn.Layer) -> ModelSize:
    """The size of the whole model. All pipeline ranks call it together."""
    layers = list(model.sublayers())
    own = [
        sum(_elements(param) for param in model.parameters() if not _counted_elsewhere(param)),
        sum(_multiplied(layer) for layer in layers),
        sum(_pairs(layer) for layer in layers),
    ]
    total = topology().pp.group.all_reduce(paddle.to_tensor(own, "float64")).wait()
    parameters, multiplied, pairs = (float(value) for value in total.numpy())
    return ModelSize(round(parameters), multiplied, pairs)


def _multiplied(layer: nn.Layer) -> float:
    """Elements of the layer's own matrix by which a token is multiplied, on average. A layer that works on some of the
    tokens says on what share of them: `token_share`."""
    if isinstance(layer, LMHead):
        return _elements(layer.matrix)
    if isinstance(layer, (Linear, Router, Taps)):
        return _elements(layer.weight) * getattr(layer, "token_share", 1.0)
    return 0


def _pairs(layer: nn.Layer) -> float:
    """Multiplications in an attention layer for a token and another one."""
    if isinstance(layer, Attention):
        return 2 * getattr(layer, layer.out_name).weight.whole_shape[0]
    return getattr(layer, "pair_width", 0)


def _elements(param: Tensor) -> int:
    """Of the whole parameter, and of those like it that belong to the experts of other ranks."""
    return prod(param.whole_shape) * (topology().ep.size if param.expert else 1)


def _counted_elsewhere(param: Tensor) -> bool:
    """Whether it is the second copy of one that both ends of the pipeline hold."""
    return param.tied_ends and not topology().pp.is_first
