"""A model as a list of named stages: a pipeline rank builds its share of them, under the same names, and runs them."""

from __future__ import annotations

from functools import partial
from typing import Any, Callable, Iterator, List, Optional, Sequence, Tuple

from paddle import Tensor, nn

from paddlenlp.parallel.gradients import WholeGradients
from paddlenlp.parallel.heartbeat import beat
from paddlenlp.parallel.layers import Embedding
from paddlenlp.parallel.pipeline import virtual_stages
from paddlenlp.parallel.random import initialise
from paddlenlp.parallel.schedule import deal
from paddlenlp.parallel.topology import topology
from paddlenlp.transformers.model_utils import PretrainedModel

from . import counting
from .ahead import Ahead
from .batch import Batch
from .cache import KVCache
from .head import LMHead
from .recompute import recompute_policy, recomputed

Stage = Tuple[str, Callable[[], nn.Layer]]


class BatchStage(nn.Layer):
    """A stage that looks at the micro batch beside the hidden states: `forward(x, batch)`. Others take `x` alone."""


class DecoderLayer(BatchStage):
    """A family's block. Subclasses make the parts in `__init__(config, index)` and wire them in `forward(x, batch)`.

    `index` is the place of the layer in the whole model, set when the model is built.
    """

    index: int = 0


class StagedModel(PretrainedModel):
    """A model that is a list of named stages: built in order under their names, and run in order.

    Attributes:
        chunks: the stages of this rank: one list, or `virtual_pp_degree` lists of stages that follow each other.
        order: the same in one list. Each stage knows its name (`stage_name`).
        gradients: what becomes of the gradients; see `paddlenlp.parallel.gradients`.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        stages = list(self.stages(config))
        self.chunks: List[List[nn.Layer]] = [
            [self._add(name, build()) for name, build in chunk] for chunk in self._own(stages)
        ]
        self.order: List[nn.Layer] = [layer for chunk in self.chunks for layer in chunk]
        # A cache holds the layers of this rank: the first of them is its first.
        own = [layer.index for layer in self.order if isinstance(layer, DecoderLayer)]
        self._place_in_cache = {index: place for place, index in enumerate(own)}
        self.gradients = WholeGradients(self)
        self._tie(stages[0])
        for param in self.parameters():
            param.transposed = param.transposed and self.hf_out_first
        initialise(self, config.initializer_range)
        self._size = counting.measure(self)

    @classmethod
    def stages(cls, config: Any) -> Iterator[Stage]:
        """(name, build) of every stage in order of execution."""
        raise NotImplementedError(f"{cls.__name__} must list its stages")

    @classmethod
    def describe(cls, config: Any, input_ids: Tensor) -> Tuple[Optional[Tensor], Optional[Tensor]]:
        """Positions and attention mask that follow from token ids [b, s] of whole rows, for calls that give none.

        Returns:
            (int64 [b, s] or [b, 2, s], boolean [b, 1, s, s] in place of the causal rule); None stands for 0, 1, ...,
            and for the causal rule.
        """
        return None, None

    @classmethod
    def stage_cost(cls, config: Any, name: str) -> float:
        """How long a stage computes, in decoder layers. Embedding and closing norm cost nothing to speak of."""
        return 1.0 if _is_layer(name) else 0.0

    @classmethod
    def lends_table(cls, config: Any) -> bool:
        """Whether what is behind the layers uses the token table."""
        return bool(config.tie_word_embeddings)

    @property
    def looks_ahead(self) -> bool:
        """Whether a stage of this rank reads `Batch.ahead`."""
        return any(isinstance(layer, Ahead) for layer in self.order)

    @classmethod
    def deal_out(cls, config: Any, names: Sequence[str], parts: int) -> List[range]:
        """Which of the stages with these names each of `parts` parts of the model has; see `schedule.deal`."""
        return deal([cls.stage_cost(config, name) for name in names], [_is_layer(name) for name in names], parts)

    def _own(self, stages: Sequence[Stage]) -> List[Sequence[Stage]]:
        """The stages of each chunk of this rank."""
        pp = topology().pp
        parts = self.deal_out(self.config, [name for name, _ in stages], pp.size * virtual_stages())
        return [stages[part.start : part.stop] for part in parts[pp.rank :: pp.size]]

    def _add(self, name: str, layer: nn.Layer) -> nn.Layer:
        layer.stage_name = name
        _attach(self, name, layer)
        beat.progress()
        return layer

    def run(
        self,
        x: Tensor,
        batch: Batch,
        labels: Optional[Tensor] = None,
        cache: Optional[KVCache] = None,
        stages: Optional[Sequence[nn.Layer]] = None,
    ) -> Tensor:
        """Pass `x` through stages.

        Args:
            x: what the first of them takes: token ids [tokens], or hidden states.
            batch: shape, positions and mask of the micro batch.
            labels: [tokens]; with them the head returns the sum of the token losses instead of logits.
            cache: keys and values of earlier tokens, extended on the way.
            stages: the stages to run; all of this process if None.

        Returns:
            What the last stage gives: hidden states or logits [tokens, ...], or a float32 scalar.
        """
        for layer in self.order if stages is None else stages:
            run = partial(self._run_stage, layer, batch=batch, labels=labels, cache=cache)
            x = self.gradients.run_stage(layer, run, x)
        return x

    def _run_stage(
        self, layer: nn.Layer, x: Tensor, batch: Batch, labels: Optional[Tensor], cache: Optional[KVCache]
    ) -> Tensor:
        if isinstance(layer, Ahead) and not self.training:
            return x
        if isinstance(layer, DecoderLayer):
            return self._run_layer(layer, x, batch, cache)
        if labels is not None and isinstance(layer, LMHead):
            return layer.loss(x, labels)
        return layer(x, batch) if isinstance(layer, BatchStage) else layer(x)

    def _run_layer(self, layer: DecoderLayer, x: Tensor, batch: Batch, cache: Optional[KVCache]) -> Tensor:
        granularity = recompute_policy().of_layer(layer.index) if self.training else None
        if granularity == "full":
            return recomputed(partial(layer, batch=batch), x)
        if granularity is not None or cache is not None:
            own = None if cache is None else cache.layers[self._place_in_cache[layer.index]]
            batch = batch._replace(recompute=granularity, cache=own)
        return layer(x, batch)

    def parameters_of(self, stage: nn.Layer) -> List[Tensor]:
        """The parameters that a stage computes with: its own and those it borrows, such as a tied head's table."""
        return [*stage.parameters(), *getattr(stage, "borrowed", ())]

    def num_parameters(self) -> int:
        """How many parameters the whole model has, in every layout; a shared one is counted once."""
        return self._size.parameters

    def flops_per_token(self, seq_length: int) -> float:
        """Floating-point operations of one token's forward and backward pass through the whole model, in every layout.

        See `counting`.
        """
        return self._size.flops_per_token(seq_length)

    def _tie(self, first: Stage) -> None:
        """Give a tied head, and what else is behind the layers and wants it, the token table of the first stage.

        In a pipeline the last rank has a table of its own, under the same name and thus with the same values; that both
        are one parameter is told from `tied_ends`.
        """
        head, pp = self.order[-1], topology().pp
        if isinstance(head, LMHead) and (head.tied or self.lends_table(self.config)):
            path, table = token_table(self.order[0] if pp.is_first else first[1]())
            if head.tied:
                head.tie(table)
            for layer in self.order:
                if isinstance(layer, Ahead):
                    layer.share(table, head)
            if not pp.is_first:
                _attach(self, f"{first[0]}{path}", table)
                table.weight.tied_ends = True
        elif pp.size > 1 and pp.is_first and self.lends_table(self.config):
            token_table(self.order[0])[1].weight.tied_ends = True


def _is_layer(name: str) -> bool:
    """Whether a stage is a decoder layer: those are numbered."""
    return name.rpartition(".")[2].isdigit()


def token_table(stage: nn.Layer) -> Tuple[str, Embedding]:
    """The token table within the first stage, and ".path.to.it", or "" where it is that stage."""
    for path, layer in stage.named_sublayers(include_self=True):
        if isinstance(layer, Embedding):
            return f".{path}" if path else "", layer
    raise AssertionError(f"{type(stage).__name__} has no Embedding to tie the head to")


def _attach(root: nn.Layer, dotted: str, layer: nn.Layer) -> None:
    """Put `layer` under `root` at a dotted name, making the containers on the way."""
    *path, last = dotted.split(".")
    for depth, part in enumerate(path):
        below = path[depth + 1] if depth + 1 < len(path) else last
        if part not in root._sub_layers:
            root.add_sublayer(part, nn.LayerList() if below.isdigit() else nn.Layer())
        root = root._sub_layers[part]
    root.add_sublayer(last, layer)
