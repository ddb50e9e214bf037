"""What a layer keeps of a micro batch for the backward pass: each part by what its operations save.

A tensor that two operations save is counted once, with the one that reads it: the input of a matrix with the matrix,
the queries with the scores. Sums (residuals) save nothing. `tests/planning/test_kept.py` compares with what is
allocated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple, Type

from paddle import nn
from paddle.nn import functional as F

from paddlenlp.nn import kernels
from paddlenlp.nn.attention import Attention
from paddlenlp.nn.cpu.attention import BLOCK, KEPT_BYTES
from paddlenlp.nn.hidden import Dropout
from paddlenlp.nn.latent_attention import LatentAttention
from paddlenlp.nn.learned import LearnedPositions
from paddlenlp.nn.local_filter import FilteredAttention, LocalFilter
from paddlenlp.nn.mlp import MLP, GatedMLP
from paddlenlp.nn.moe import MoE
from paddlenlp.nn.norm import LayerNorm, RMSNorm
from paddlenlp.nn.staged import DecoderLayer
from paddlenlp.parallel.layers import Embedding, Linear

ATTENTION, CORE, LAYER = "attention", "core", "layer"
"""What must be recomputed for a tensor to be dropped: an attention block, its core alone, or the whole layer."""


@dataclass(frozen=True)
class View:
    """What a layer sees of a micro batch on one rank.

    Attributes:
        rows: hidden states that it has.
        tokens: rows that enter cut work.
        batch, queries, keys: rows of tokens, and their lengths in attention.
        tp, sep: ranks that share the heads.
        experts: of a layer that the rank has.
        masked: whether the family makes a mask of its own.
        element: bytes of an element of what flows between the operations.
        copied: bytes of an element of the copies of matrices in the dtype of products, 0 where those are stored so.
        emulated: whether low precision is emulated: then every matrix that reads rows by itself rounds a copy of them.
        kernels: op -> "fused", "external" (of external_ops), "cpu" (nn/cpu) or "plain".
    """

    rows: int
    tokens: int
    batch: int
    queries: int
    keys: int
    config: Any
    tp: int = 1
    sep: int = 1
    experts: int = 1
    masked: bool = False
    element: int = 4
    copied: int = 0
    emulated: bool = False
    kernels: Mapping[str, str] = None  # type: ignore[assignment]


class Kept(NamedTuple):
    """Bytes that are kept of a part, and what drops them: ATTENTION, CORE or LAYER."""

    part: str
    bytes: float
    scope: str = LAYER


def kept_of(layer: nn.Layer, view: View) -> List[Kept]:
    """What a stage keeps, without recomputing."""
    own = next((rule for kind, rule in _RULES.items() if isinstance(layer, kind)), None)
    if own is not None:
        return list(own(layer, view))
    found = [kept for child in layer.children() for kept in kept_of(child, view)]
    rate = getattr(layer, "dropout", 0.0)
    if isinstance(layer, DecoderLayer) and isinstance(rate, float) and rate:
        found.append(Kept("dropout", 2.0 * view.rows * view.config.hidden_size))  # a byte for each element
    return found


# ---- norms, matrices, feed-forward -----------------------------------------------------------------------------------


def _rms_norm(layer: nn.Layer, view: View, rows: Optional[int] = None) -> Iterator[Kept]:
    width, rows = layer.weight.whole_shape[0], view.rows if rows is None else rows
    kind = view.kernels["rms_norm"]
    each = {"fused": width * view.element, "cpu": 4 * width, "plain": 8 * width}[kind] + 4
    yield Kept("norms", rows * each)


def _layer_norm(layer: nn.Layer, view: View) -> Iterator[Kept]:
    width = layer.weight.whole_shape[0]
    each = width * view.element if view.kernels["layer_norm"] == "fused" else 4 * width
    yield Kept("norms", view.rows * (each + 8))


def _linear(layer: nn.Layer, view: View) -> Iterator[Kept]:
    """A matrix that stands alone and is whole."""
    yield Kept("projections", view.rows * layer.weight.whole_shape[0] * view.element)
    yield from _copies(layer, view)


def _copies(layer: nn.Layer, view: View, scope: str = LAYER) -> Iterator[Kept]:
    """Matrices in the dtype of products, which the products keep where they are stored in another."""
    if view.copied:
        matrices = [x.weight for x in layer.sublayers(include_self=True) if isinstance(x, Linear)]
        yield Kept("copies of matrices", view.copied * sum(_share(matrix, view) for matrix in matrices), scope)


def _share(weight: Any, view: View) -> float:
    """Elements of a matrix on a rank, and of those of the rank's other experts that are like it."""
    rows, columns = weight.tp_layout.share_shape(weight.whole_shape, view.tp)
    return rows * columns * (view.experts if weight.expert else 1)


def _gated(layer: Any, view: View, rows: float, tokens: float) -> Tuple[float, float]:
    """(bytes of what enters, bytes between the matrices) of a GatedMLP that works on so many tokens."""
    down = getattr(layer, layer.names[-1]).weight
    width = down.tp_layout.share_shape(down.whole_shape, view.tp)[0]
    kept = 2 if layer.gated is kernels.swiglu and view.kernels["swiglu"] == "fused" else 3
    readers = _readers(1 if layer.fused_name else 2, layer, view)
    return rows * down.whole_shape[1] * view.element * readers, tokens * width * (kept + 1) * view.element


def _readers(matrices: int, layer: Any, view: View) -> int:
    """Copies of the rows that so many matrices of a layer read."""
    together = view.tp > 1 and all(x.split == "column" for x in layer.children() if isinstance(x, Linear) and x.split)
    return matrices if view.emulated and not together else 1


def _gated_mlp(layer: Any, view: View) -> Iterator[Kept]:
    yield Kept("mlp", sum(_gated(layer, view, view.rows, view.tokens)))
    yield from _copies(layer, view)


def _mlp(layer: Any, view: View) -> Iterator[Kept]:
    down = getattr(layer, layer.names[-1]).weight
    width = down.tp_layout.share_shape(down.whole_shape, view.tp)[0]
    kept = 1 if layer.activation is F.relu else 2
    yield Kept("mlp", (view.rows * down.whole_shape[1] + view.tokens * width * kept) * view.element)
    yield from _copies(layer, view)


def _moe(layer: Any, view: View) -> Iterator[Kept]:
    """Tokens are taken to be spread evenly over the experts."""
    hidden, router, expert = view.config.hidden_size, layer.gate, next(iter(layer.experts.children()))
    dealt, row, low = view.tokens * router.choices, hidden * view.element, view.element < 4
    shared, shared_gate = (layer._sub_layers.get(name) for name in layer.shared_names or ("", ""))
    scores = view.rows * (4 * router.experts * (3 if layer.balance else 2) + 24 * router.choices)
    wide = 4 * hidden * (view.rows + router.experts) if low else 0  # the router reads float32
    yield Kept("router", scores + wide)
    entered, between = _gated(expert, view, dealt, dealt)
    results = dealt * (row + 3 * 8 + 4)
    yield Kept("experts", view.rows * row + entered + between + results)
    if view.tp > 1:
        yield Kept("experts", view.tokens * row)
    if shared is not None:
        copies, between = _gated(shared, view, view.tokens, view.tokens)
        yield Kept("experts", between + (copies if view.emulated else 0))
    if shared_gate is not None:
        yield Kept("experts", view.tokens * row * (2 if view.emulated else 1))
    yield from _copies(layer, view)


# ---- attention -------------------------------------------------------------------------------------------------------


class Heads(NamedTuple):
    """Of a rank: query and key heads, widths of keys and values, and what the kernel must be able to do beside the
    causal rule."""

    queries: int
    keys: int
    width: int
    value: int
    biased: bool
    dropout: float


def _attention(layer: Any, view: View) -> Iterator[Kept]:
    hidden, heads = view.config.hidden_size, _heads(layer, view)
    readers = _readers(1 if layer.fused_name else 3, layer, view)
    yield Kept("attention", view.rows * hidden * view.element * readers)
    if layer.position is not None:
        yield from _turned(heads.queries + heads.keys, layer, view)
    yield from _core(heads, view)
    yield from _copies(layer, view, ATTENTION)


def _heads(layer: Any, view: View) -> Heads:
    """Of an Attention or a FilteredAttention."""
    width, ranks = layer.head_dim, view.tp * view.sep
    heads, keys = layer.pair_width // 2 // width, getattr(view.config, "num_key_value_heads", None)
    if isinstance(layer, FilteredAttention):
        return Heads(heads // ranks, heads // ranks, width, width, view.masked, 0.0)
    windowed = layer.window is not None
    biased = layer.slopes is not None or windowed or view.masked
    return Heads(heads // ranks, max(1, (keys or heads) // ranks), width, width, biased, layer.dropout)


def _turned(heads: int, layer: Any, view: View) -> Iterator[Kept]:
    """What turning queries and keys keeps: nothing of them where it is fused."""
    kind, position = view.kernels["rotate"], getattr(layer.position, "in_training", layer.position)
    dim = position.dim
    if kind == "cpu" and not position.interleaved:  # tables as wide as a row of the batch
        rows = view.batch if view.masked else 1  # a family that makes masks makes positions of each row too
        yield Kept("attention", 8.0 * rows * view.queries * heads * dim, ATTENTION)
    elif kind != "fused":
        yield Kept("attention", 4.0 * view.batch * view.queries * heads * dim, ATTENTION)


def _core(heads: Heads, view: View) -> Iterator[Kept]:
    """Queries, keys, values, what softmax keeps, and the result, which the closing matrix reads. Flash attention takes
    values as wide as the keys, and keeps a result as wide."""
    tokens, element = view.batch * view.queries, view.element
    widened = view.kernels["attention"] == "fused" and not _stores_scores(heads, view) and heads.width > heads.value
    value = heads.width if widened else heads.value
    inputs = tokens * (heads.queries * heads.width + heads.keys * (heads.width + value)) * element
    yield Kept("attention", inputs, ATTENTION)
    yield Kept("attention", tokens * heads.queries * heads.value * element, ATTENTION)
    yield Kept("attention", _scores(heads, view) + widened * tokens * heads.queries * heads.width * element, CORE)


def _stores_scores(heads: Heads, view: View) -> bool:
    """Whether the kernel leaves this to the plain one, which has all scores in memory."""
    kind = view.kernels["attention"]
    if kind == "fused":
        return heads.biased or view.element == 4 or heads.width < heads.value
    if kind == "external":
        return view.masked or heads.dropout > 0
    return kind != "ring" and (kind == "plain" or heads.biased or heads.dropout > 0)


def _scores(heads: Heads, view: View) -> float:
    pairs = float(view.batch * heads.queries * view.queries * view.keys)
    if _stores_scores(heads, view):
        # Softmax, its product with the mask as the values are multiplied by it, and whether a key is seen; the mask.
        mask = 4.0 * view.queries * view.keys * (view.batch if view.masked else 1)
        return pairs * (4 + view.element + 1 + (1 if heads.dropout else 0)) + mask
    if view.kernels["attention"] in ("fused", "ring", "external"):  # the logarithms of the sums
        return 4.0 * view.batch * heads.queries * view.queries
    if view.batch * heads.queries * view.queries * (view.queries + BLOCK) * 2 > KEPT_BYTES:
        return 0.0
    starts = range(0, view.queries, BLOCK)
    blocks = sum((min(at + BLOCK, view.queries) - at) * min(at + BLOCK, view.queries) for at in starts)
    return 4.0 * view.batch * heads.queries * blocks


def _latent(layer: Any, view: View) -> Iterator[Kept]:
    config, ranks = view.config, view.tp * view.sep
    count = config.num_attention_heads // ranks
    wide = layer.plain + layer.turned
    heads = Heads(count, count, wide, layer.value, view.masked, layer.dropout)
    narrow = layer.kv_rank + (layer.q_rank or 0)
    yield Kept("attention", view.rows * config.hidden_size * view.element)
    norm = {"fused": view.element, "cpu": 4, "plain": 8}[view.kernels["rms_norm"]]
    yield Kept("attention", view.rows * narrow * norm + view.tokens * narrow * view.element, ATTENTION)
    plain = view.kernels["rotate"] == "plain" or (view.kernels["rotate"] == "cpu" and layer.position.interleaved)
    if plain:
        yield Kept("attention", 4.0 * view.tokens * (count + 1) * layer.turned, ATTENTION)
    yield from _core(heads, view)
    yield from _copies(layer, view, ATTENTION)


def _filtered(layer: Any, view: View) -> Iterator[Kept]:
    yield from _local_filter(layer.lf_gate, view)
    hidden, heads = view.config.hidden_size, _heads(layer, view)
    yield Kept("attention", view.rows * hidden * view.element)  # for the values
    yield Kept("attention", view.rows * hidden * view.element, ATTENTION)  # filtered, for queries and keys
    yield from _turned(heads.queries + heads.keys, layer, view)
    yield from _core(heads, view)
    yield from _copies(layer, view, ATTENTION)


def _local_filter(layer: Any, view: View) -> Iterator[Kept]:
    """Each convolution keeps a token beside the one before it, and its matrix the other way round."""
    hidden, element = view.config.hidden_size, view.element
    yield Kept("attention", view.tokens * (2 * hidden + hidden / view.tp) * element, ATTENTION)
    yield Kept("attention", 2.0 * hidden * hidden / view.tp * element, ATTENTION)
    yield from (kept._replace(part="attention", scope=ATTENTION) for kept in _rms_norm(layer.output_layernorm, view))


# ---- ends of the model -----------------------------------------------------------------------------------------------


def _embedding(layer: Any, view: View) -> Iterator[Kept]:
    """The ids; where the table is cut, the rows before those of other ranks are struck out."""
    rows = view.tokens * layer.weight.whole_shape[1] * view.element
    yield Kept("embedding", 8 * view.tokens + (rows if view.tp > 1 else 0) + (rows if layer.scale != 1.0 else 0))


def _positions(layer: Any, view: View) -> Iterator[Kept]:
    yield Kept("embedding", view.rows * (8 + (layer.weight.whole_shape[1] if layer.dropout else 0)))


def _dropout(layer: Any, view: View) -> Iterator[Kept]:
    yield Kept("dropout", view.rows * view.config.hidden_size if layer.rate else 0)


_RULES: Dict[Type[nn.Layer], Callable[[Any, View], Iterator[Kept]]] = {
    RMSNorm: _rms_norm,
    LayerNorm: _layer_norm,
    Attention: _attention,
    LatentAttention: _latent,
    FilteredAttention: _filtered,
    LocalFilter: _local_filter,
    GatedMLP: _gated_mlp,
    MLP: _mlp,
    MoE: _moe,
    Embedding: _embedding,
    LearnedPositions: _positions,
    Dropout: _dropout,
    Linear: _linear,
}
"""Part -> what it keeps. A layer that is none of these keeps what its parts keep."""
