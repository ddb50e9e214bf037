"""What every decoder-only language model shares: a list of named stages, and one loop over it."""

from __future__ import annotations

from functools import partial
from typing import Any, Callable, ClassVar, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, Type

import paddle
from paddle import Tensor, nn

from paddlenlp.parallel.gradients import WholeGradients, total_loss, total_over_data
from paddlenlp.parallel.layers import Embedding
from paddlenlp.parallel.random import initialise
from paddlenlp.transformers.generation_utils import GenerationMixin
from paddlenlp.transformers.model_utils import PretrainedModel

from . import counting
from .batch import Batch, make_batch
from .cache import KVCache
from .head import LMHead
from .loss import kept_tokens
from .recompute import recompute_policy, recomputed

Stage = Tuple[str, Callable[[], nn.Layer]]
MicroBatch = Mapping[str, Tensor]


class DecoderLayer(nn.Layer):
    """A family's block. Subclasses make the parts in `__init__(config, index)` and wire them in `forward(x, batch)`.

    `index` is the place of the layer in the whole model, set when the model is built.
    """

    index: int = 0


class StagedModel(PretrainedModel):
    """A model that is a list of named stages: built in order under their names, and run in order."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.order: List[nn.Layer] = []
        for name, build in self.stages(config):
            layer = build()
            _attach(self, name, layer)
            self.order.append(layer)
        self.gradients = WholeGradients(self)
        self._tie()
        initialise(self, config.initializer_range)

    @classmethod
    def stages(cls, config: Any) -> Iterator[Stage]:
        """(name, build) of every stage in order of execution."""
        raise NotImplementedError(f"{cls.__name__} must list its stages")

    def run(
        self,
        x: Tensor,
        batch: Batch,
        labels: Optional[Tensor] = None,
        cache: Optional[KVCache] = None,
        stages: Optional[Sequence[nn.Layer]] = None,
    ) -> Tensor:
        """Pass `x` through the stages.

        Args:
            x: what the first stage takes: token ids [tokens].
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
        if isinstance(layer, DecoderLayer):
            return self._run_layer(layer, x, batch, cache)
        if labels is not None and isinstance(layer, LMHead):
            return layer.loss(x, labels)
        return layer(x)

    def num_parameters(self) -> int:
        """How many parameters the whole model has, a shared one counted once."""
        return counting.num_parameters(self)

    def _run_layer(self, layer: DecoderLayer, x: Tensor, batch: Batch, cache: Optional[KVCache]) -> Tensor:
        granularity = recompute_policy().of_layer(layer.index) if self.training else None
        if granularity == "full":
            return recomputed(partial(layer, batch=batch), x)
        if granularity is not None or cache is not None:
            own = None if cache is None else cache.layers[layer.index]
            batch = batch._replace(recompute=granularity, cache=own)
        return layer(x, batch)

    def _tie(self) -> None:
        """Give a tied head the token table of the first stage."""
        head = self.order[-1]
        if isinstance(head, LMHead) and head.tied:
            head.tie(next(part for part in self.order[0].sublayers(include_self=True) if isinstance(part, Embedding)))


class DecoderModel(StagedModel):
    """`<Family>Model`: embedding, decoder layers and closing norm; gives hidden states [b, s, hidden].

    A family sets `layer_class` and `build_norm`, and `names` or `build_embed` where it differs.
    """

    layer_class: ClassVar[Callable[[Any, int], DecoderLayer]]
    names: ClassVar[Dict[str, str]] = {"embed": "embed_tokens", "layers": "layers", "norm": "norm"}

    @classmethod
    def build_embed(cls, config: Any) -> nn.Layer:
        """The first stage: token ids [tokens] -> [tokens, hidden]."""
        return Embedding(config.vocab_size, config.hidden_size)

    @classmethod
    def build_norm(cls, config: Any) -> nn.Layer:
        """The norm that closes the stack."""
        raise NotImplementedError(f"{cls.__name__} must say what norm closes the stack")

    @classmethod
    def stages(cls, config: Any) -> Iterator[Stage]:
        yield cls.names["embed"], partial(cls.build_embed, config)
        for index in range(config.num_hidden_layers):
            yield f"{cls.names['layers']}.{index}", partial(cls._build_layer, config, index)
        yield cls.names["norm"], partial(cls.build_norm, config)

    @classmethod
    def _build_layer(cls, config: Any, index: int) -> DecoderLayer:
        layer = cls.layer_class(config, index)
        layer.index = index
        return layer

    def forward(
        self, input_ids: Tensor, position_ids: Optional[Tensor] = None, attention_mask: Optional[Tensor] = None
    ) -> Tensor:
        batch = make_batch(input_ids, position_ids, attention_mask)
        return self.run(input_ids.reshape([-1]), batch).reshape([batch.size, batch.seq, -1])


class CausalLM(GenerationMixin, StagedModel):
    """`<Family>ForCausalLM`: a DecoderModel under `base_model_prefix`, and a head over the vocabulary."""

    model_class: ClassVar[Type[DecoderModel]] = DecoderModel
    base_model_prefix: ClassVar[str] = "model"
    head_name: ClassVar[str] = "lm_head"

    @classmethod
    def stages(cls, config: Any) -> Iterator[Stage]:
        for name, build in cls.model_class.stages(config):
            yield f"{cls.base_model_prefix}.{name}", build
        yield cls.head_name, partial(cls.build_head, config)

    @classmethod
    def build_head(cls, config: Any) -> LMHead:
        """The last stage: [tokens, hidden] -> logits [tokens, vocab]."""
        return LMHead(config.hidden_size, config.vocab_size, config.tie_word_embeddings)

    def forward(
        self,
        input_ids: Tensor,
        labels: Optional[Tensor] = None,
        position_ids: Optional[Tensor] = None,
        attention_mask: Optional[Tensor] = None,
        cache: Optional[KVCache] = None,
    ) -> Tensor:
        """Logits [b, s, vocab] of token ids [b, s]; with labels, the mean loss over those that are not -100.

        Args:
            input_ids: int64 [b, s].
            labels: int64 [b, s]; labels[:, i] is the token that follows input_ids[:, i].
            position_ids: int64 [b, s]; 0, 1, ... (after what the cache holds) if None.
            attention_mask: see `Batch.attention_mask`.
            cache: keys and values of the tokens before these; extended by these.
        """
        if labels is not None:
            micro_batch = _as_batch(input_ids, labels, position_ids, attention_mask)
            return self._loss_sum(micro_batch) / kept_tokens([labels]).clip(min=1.0)
        batch = make_batch(input_ids, position_ids, attention_mask, cache)
        return self.run(input_ids.reshape([-1]), batch, cache=cache).reshape([batch.size, batch.seq, -1])

    def train_batch(self, micro_batches: Sequence[MicroBatch], scale: float = 1.0) -> Tensor:
        """Forward and backward over the micro batches of one step.

        Tokens are counted over all of them first, so that a step does not depend on how it is split.

        Args:
            micro_batches: each with `input_ids` and `labels`, and perhaps `position_ids` and `attention_mask`.
            scale: factor of the gradients (loss scaling), not of the loss returned.

        Returns:
            The mean loss over all kept tokens: float32 scalar without gradient. The gradients of `scale` times it are
                added to
            `param.grad`, in the gradient dtype of the precision policy.
        """
        kept = total_over_data(kept_tokens([batch["labels"] for batch in micro_batches])).clip(min=1.0)
        losses = []
        self.gradients.begin(len(micro_batches))
        for number, batch in enumerate(micro_batches, 1):
            loss = self._loss_sum(batch)
            (loss * (scale / kept)).backward()
            self.gradients.backward_done(self.order, number == len(micro_batches))
            losses.append(loss.detach())
        self.gradients.finish()
        return total_loss(paddle.add_n(losses) / kept)

    @paddle.no_grad()
    def eval_batch(self, batch: MicroBatch) -> Tuple[Tensor, Tensor]:
        """(sum of the token losses, number of kept tokens) of one micro batch: float32 scalars, without gradients."""
        return self._loss_sum(batch), kept_tokens([batch["labels"]])

    def next_logits(self, input_ids: Tensor, cache: KVCache) -> Tensor:
        """Logits [b, vocab] of the token after `input_ids` [b, s], which are read after what `cache` holds and added
        to it."""
        batch = make_batch(input_ids, cache=cache)
        *before, head = self.order
        x = self.run(input_ids.reshape([-1]), batch, cache=cache, stages=before)
        return head(x.reshape([batch.size, batch.seq, -1])[:, -1])

    def flops_per_token(self, seq_length: int) -> float:
        """Floating-point operations of one token's forward and backward pass; see `counting.flops_per_token`."""
        return counting.flops_per_token(self, seq_length)

    def _loss_sum(self, micro_batch: MicroBatch) -> Tensor:
        ids = micro_batch["input_ids"]
        batch = make_batch(ids, micro_batch.get("position_ids"), micro_batch.get("attention_mask"))
        return self.run(ids.reshape([-1]), batch, labels=micro_batch["labels"].reshape([-1]))


def pipe(causal_lm: Type[CausalLM]) -> Type[CausalLM]:
    """The `<Family>ForCausalLMPipe` of a `<Family>ForCausalLM`: the same stages under the name that pipelines use."""
    return type(
        f"{causal_lm.__name__}Pipe", (causal_lm,), {"__doc__": causal_lm.__doc__, "__module__": causal_lm.__module__}
    )


def _as_batch(input_ids: Tensor, labels: Tensor, position_ids: Any, attention_mask: Any) -> Dict[str, Any]:
    return {"input_ids": input_ids, "labels": labels, "position_ids": position_ids, "attention_mask": attention_mask}


def _attach(root: nn.Layer, dotted: str, layer: nn.Layer) -> None:
    """Put `layer` under `root` at a dotted name, making the containers on the way."""
    *path, last = dotted.split(".")
    for depth, part in enumerate(path):
        below = path[depth + 1] if depth + 1 < len(path) else last
        if part not in root._sub_layers:
            root.add_sublayer(part, nn.LayerList() if below.isdigit() else nn.Layer())
        root = root._sub_layers[part]
    root.add_sublayer(last, layer)
