"""What each stage of a model computes for a token, asked of the stage itself, which is built without its weights.

The whole model is described, as one process would hold it; `Matrix.own` and `Parameter.own` say what a rank of a layout
has of it, by the parameters' own `tp_layout`. Equal stages are equal values, so that what is worked out for one holds
for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, Iterator, NamedTuple, Tuple

from paddle import nn

from paddlenlp.nn.attention import Attention
from paddlenlp.nn.decoder import DecoderLayer
from paddlenlp.nn.head import LMHead
from paddlenlp.nn.latent_attention import LatentAttention
from paddlenlp.nn.local_filter import FilteredAttention, LocalFilter, Taps
from paddlenlp.nn.mlp import MLP, GatedMLP
from paddlenlp.nn.moe import MoE
from paddlenlp.nn.moe_router import Router
from paddlenlp.nn.norm import LayerNorm, RMSNorm
from paddlenlp.nn.staged import token_table
from paddlenlp.parallel.layers import Embedding, Linear
from paddlenlp.parallel.layout import Layout as Cut
from paddlenlp.trainer.model_fit import number_of_experts

from .abstract import AbstractStage, abstract_model


class Parameter(NamedTuple):
    """A parameter, whole. `experts` is how many like it a layer has where it belongs to an expert, else 0."""

    shape: Tuple[int, ...]
    cut: Cut
    experts: int

    def own(self, tp: int, ep: int) -> float:
        """Elements on a rank, of it and of those like it."""
        return prod(self.cut.share_shape(self.shape, tp)) * (self.experts / ep if self.experts else 1)


class Matrix(NamedTuple):
    """A matrix by which `share` of the tokens are multiplied; there are `copies` of its size (experts). `attends`: it
    is part of an attention, which some recompute."""

    inputs: int
    outputs: int
    cut: Cut
    share: float = 1.0
    copies: int = 1
    attends: bool = False

    def own(self, tp: int) -> Tuple[int, int]:
        """Inputs and outputs on a rank."""
        inputs, outputs = self.cut.share_shape((self.inputs, self.outputs), tp)
        return inputs, outputs


class Scores(NamedTuple):
    """Attention: its heads, those of the keys, the widths of a key and of a value, and whether positions are added to
    the scores as a bias or a window is laid over them, which not every kernel takes."""

    heads: int
    key_heads: int
    key_width: int
    value_width: int
    biased: bool


class Activation(NamedTuple):
    """An activation function over so many features, of `share` of the tokens; `inputs` is 2 where it is gated."""

    width: int
    inputs: int
    share: float = 1.0


@dataclass(frozen=True)
class StageWork:
    """A stage of a model.

    Attributes:
        kind: "layer", "head" or "other".
        hidden: width of the hidden states.
        parameters, matrices, scores, activations: see there.
        norms: features that are normalised, of a whole token.
        adds: features that are added up between the parts of a layer.
        turned: features of queries and keys that are turned by their positions; cut over the tensor-parallel ranks.
        split: features of a fused product that are taken apart; cut likewise.
        enters, leaves: widths of what enters and leaves the cut work of the tensor-parallel ranks.
        regathered: of what enters, which sequence parallelism gathers once more in the backward pass.
        dealt: how often a token's hidden state is sent to an expert.
        vocabulary: of a head, else 0.
    """

    kind: str
    hidden: int
    parameters: Tuple[Parameter, ...]
    matrices: Tuple[Matrix, ...]
    scores: Tuple[Scores, ...] = ()
    activations: Tuple[Activation, ...] = ()
    norms: int = 0
    adds: int = 0
    turned: int = 0
    split: int = 0
    enters: Tuple[int, ...] = ()
    leaves: Tuple[int, ...] = ()
    regathered: Tuple[int, ...] = ()
    dealt: int = 0
    vocabulary: int = 0

    @property
    def multiplied(self) -> float:
        """Elements of the matrices that a token is multiplied by, on average."""
        return sum(m.inputs * m.outputs * m.share * m.copies for m in self.matrices)

    def elements(self, tp: int, ep: int) -> Tuple[float, float]:
        """Parameters on a rank: those of experts, and the others."""
        own = [(param.experts > 0, param.own(tp, ep)) for param in self.parameters]
        return sum(n for expert, n in own if expert), sum(n for expert, n in own if not expert)


@dataclass(frozen=True)
class ModelWork:
    """A model.

    Attributes:
        names: of its stages, in order.
        stages: what they compute.
        kinds: for each, the place of the first one equal to it.
        costs: theirs by `stage_cost`, by which the stages are dealt out to a pipeline.
        multiplied, pairs, parameters: as in `counting.ModelSize`.
    """

    names: Tuple[str, ...]
    stages: Tuple[StageWork, ...]
    kinds: Tuple[int, ...]
    costs: Tuple[float, ...]
    multiplied: float
    pairs: float
    parameters: float

    @property
    def in_layers(self) -> float:
        """Of `multiplied` what is in decoder layers."""
        return sum(stage.multiplied for stage in self.stages if stage.kind == "layer")

    def flops_per_token(self, seq_length: int) -> float:
        """As `ModelSize.flops_per_token`: the convention of the logged MFU."""
        return 6.0 * (self.multiplied + self.pairs * seq_length)


def model_work(config: Any) -> ModelWork:
    """What the model of this configuration computes. Takes some tenths of a second: keep it.

    Raises:
        UsageError: the configuration contradicts itself.
    """
    model = abstract_model(config)
    names = tuple(stage.name for stage in model.stages)
    if model.tied:
        tied, (_, table) = model.stages[-1].layer, token_table(model.stages[0].layer)
        if isinstance(tied, LMHead) and tied.tied:
            tied.tie(table)
    described = {id(stage.layer): _describe(stage, config) for stage in model.stages}
    stages = tuple(described[id(stage.layer)] for stage in model.stages)
    costs = tuple(float(model.family.stage_cost(config, name)) for name in names)
    multiplied = sum(stage.multiplied for stage in stages)
    pairs = sum(scores.heads * (scores.key_width + scores.value_width) for stage in stages for scores in stage.scores)
    kinds = tuple(stages.index(stage) for stage in stages)
    return ModelWork(names, stages, kinds, costs, multiplied, float(pairs), float(model.parameters))


def _describe(stage: AbstractStage, config: Any) -> StageWork:
    layer, experts = stage.layer, max(1, number_of_experts(config))
    parts = list(layer.sublayers(include_self=True))
    is_layer, is_head = isinstance(layer, DecoderLayer), isinstance(layer, LMHead)
    hidden, attentions = config.hidden_size, [part for part in parts if hasattr(part, "pair_width")]
    attention = {id(inner) for part in attentions for inner in part.sublayers()}
    return StageWork(
        kind="layer" if is_layer else "head" if is_head else "other",
        hidden=hidden,
        parameters=tuple(Parameter(weight.shape, weight.cut, weight.experts) for weight in stage.weights),
        matrices=tuple(found for part in parts for found in _matrices(part, experts, id(part) in attention)),
        scores=tuple(_scores(part, config) for part in attentions),
        activations=tuple(found for part in parts for found in _activations(part, experts)),
        norms=sum(part.weight.shape[0] for part in parts if isinstance(part, (RMSNorm, LayerNorm))),
        adds=2 * hidden if is_layer else 0,
        turned=sum(_turned(part, config) for part in parts),
        split=sum(getattr(part, part.fused_name).weight.shape[1] for part in parts if _is_fused(part)),
        enters=tuple(width for part in parts for width in (*_read_together(part), *_enters(part, hidden))),
        leaves=tuple(width for part in parts for width in _leaves(part, hidden)),
        regathered=tuple(width for part in parts for width in _read_together(part)),
        dealt=sum(part.choices for part in parts if isinstance(part, Router)),
        vocabulary=config.vocab_size if is_head else 0,
    )


def _matrices(part: Any, experts: int, attends: bool) -> Iterator[Matrix]:
    """Those of this layer itself. Of a convolution the taps lie one above the other."""
    if isinstance(part, LMHead):
        rows, columns = part.matrix.whole_shape
        yield Matrix(columns, rows, Cut(1)) if part.tied else Matrix(rows, columns, part.matrix.tp_layout)
    elif isinstance(part, (Linear, Router)):
        count = experts if part.weight.expert else 1
        share = getattr(part, "token_share", 1.0)
        inputs, outputs = part.weight.whole_shape
        yield Matrix(inputs, outputs, part.weight.tp_layout, share, count, attends)
    elif isinstance(part, Taps):
        outputs, inputs = part.weight.whole_shape[:2]
        yield Matrix(2 * inputs, outputs, Cut(1 - (part.weight.tp_layout.axis or 0)), attends=attends)


def _scores(part: Any, config: Any) -> Scores:
    heads = config.num_attention_heads
    if isinstance(part, LatentAttention):
        return Scores(heads, heads, part.plain + part.turned, part.value, False)
    width = part.pair_width // (2 * heads)
    if isinstance(part, FilteredAttention):
        return Scores(heads, heads, width, width, False)
    biased = getattr(part, "slopes", None) is not None or getattr(part, "window", None) is not None
    return Scores(heads, config.num_key_value_heads, width, width, biased)


def _activations(part: nn.Layer, experts: int) -> Iterator[Activation]:
    if isinstance(part, (GatedMLP, MLP)):
        down = getattr(part, part.names[-1])
        count = experts if down.weight.expert else 1
        share = getattr(down, "token_share", 1.0) * count
        yield Activation(down.weight.whole_shape[0], 2 if isinstance(part, GatedMLP) else 1, share)


def _turned(part: nn.Layer, config: Any) -> int:
    if isinstance(part, LatentAttention):
        return config.num_attention_heads * part.turned
    if isinstance(part, (Attention, FilteredAttention)) and part.position is not None:
        kv_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        return (config.num_attention_heads + kv_heads) * part.head_dim
    return 0


def _is_fused(part: nn.Layer) -> bool:
    return isinstance(part, (Attention, GatedMLP)) and part.fused_name is not None


def _read_together(part: nn.Layer) -> Iterator[int]:
    """Width of the rows that all column-cut matrices of a part read: they enter once for all."""
    widths = [x.weight.whole_shape[0] for x in part.children() if isinstance(x, Linear) and x.split == "column"]
    return iter(widths[:1])


def _enters(part: nn.Layer, hidden: int) -> Iterator[int]:
    """Widths of what else enters."""
    if isinstance(part, LatentAttention):
        yield part.kv_rank + part.turned + (part.q_rank or 0)
    if isinstance(part, (MoE, LocalFilter, LMHead)):
        yield hidden


def _leaves(part: nn.Layer, hidden: int) -> Iterator[int]:
    """Widths that leave."""
    if isinstance(part, Linear) and part.split == "row":
        yield part.weight.whole_shape[1]
    if isinstance(part, (MoE, LocalFilter, Embedding)):
        yield hidden
