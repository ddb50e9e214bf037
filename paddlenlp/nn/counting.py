"""How large a model is and how much it computes, asked of its layers."""

from __future__ import annotations

from math import prod

from paddle import nn

from paddlenlp.parallel.layers import Linear

from .attention import Attention
from .head import LMHead


def num_parameters(model: nn.Layer) -> int:
    """Parameters of the whole model, whatever share of each this process holds; a shared one is counted once."""
    return sum(prod(param.whole_shape) for param in model.parameters())


def flops_per_token(model: nn.Layer, seq_length: int) -> float:
    """Floating-point operations of the forward and backward pass of one token in a sequence of `seq_length` tokens.

    The usual convention (Chowdhery et al., arXiv:2204.02311, appendix B): 6 N + 12 L h d s. N counts the matrices each
    token is multiplied by: all but the embedding, whose rows are looked up, with the head even where it shares the
    embedding's weight. L, h and d are layers, query heads and their width: scores and the weighted sum over all s
    positions, the causal half not deducted. A multiplication and an addition are two operations; the backward pass
    costs twice the forward pass; recomputing is not counted.
    """
    layers = list(model.sublayers())
    matrices = [layer.weight for layer in layers if isinstance(layer, Linear)]
    matrices += [layer.matrix for layer in layers if isinstance(layer, LMHead)]
    heads = sum(layer.o_proj.weight.whole_shape[0] for layer in layers if isinstance(layer, Attention))
    return 6.0 * sum(prod(matrix.whole_shape) for matrix in matrices) + 12.0 * heads * seq_length
