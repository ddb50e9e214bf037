"""What every decoder-only language model shares: embedding, decoder layers, closing norm and head, as stages."""

from __future__ import annotations

from functools import partial
from typing import Any, Callable, ClassVar, Dict, Iterator, Optional, Sequence, Tuple, Type

from paddle import Tensor, nn

from paddlenlp.parallel.layers import Embedding
from paddlenlp.parallel.topology import topology
from paddlenlp.transformers.generation_utils import GenerationMixin
from paddlenlp.utils.errors import UsageError

from . import program
from .batch import Batch
from .cache import KVCache
from .head import LMHead
from .loss import kept_tokens
from .moe_router import update_biases
from .norm import RMSNorm
from .program import MicroBatch
from .staged import DecoderLayer, Stage, StagedModel

__all__ = ["CausalLM", "DecoderLayer", "DecoderModel", "PreNormLayer", "pipe"]


class PreNormLayer(DecoderLayer):
    """x + self_attn(input_layernorm(x)), then x + mlp(post_attention_layernorm(x)): of the four parts that a subclass
    makes under these names."""

    def forward(self, x: Tensor, batch: Batch) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), batch)
        return x + self.mlp(self.post_attention_layernorm(x))


class DecoderModel(StagedModel):
    """`<Family>Model`: embedding, decoder layers and closing norm; gives hidden states [b, s, hidden].

    A family sets `layer_class`, and `names`, `build_embed` or `build_norm` where it differs.
    """

    layer_class: ClassVar[Callable[[Any, int], DecoderLayer]]
    names: ClassVar[Dict[str, str]] = {"embed": "embed_tokens", "layers": "layers", "norm": "norm"}

    def __init__(self, config: Any) -> None:
        if topology().pp.size > 1:
            raise UsageError(
                f"{type(self).__name__} has no head, and a pipeline trains models with one. Use the ForCausalLM class, "
                "or set pipeline_parallel_degree to 1"
            )
        super().__init__(config)

    @classmethod
    def build_embed(cls, config: Any) -> nn.Layer:
        """The first stage: token ids [tokens] -> [tokens, hidden]."""
        return Embedding(config.vocab_size, config.hidden_size)

    @classmethod
    def build_norm(cls, config: Any) -> nn.Layer:
        """The norm that closes the stack."""
        return RMSNorm(config.hidden_size, config.rms_norm_eps)

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
        self,
        input_ids: Tensor,
        position_ids: Optional[Tensor] = None,
        attention_mask: Optional[Tensor] = None,
        document_ids: Optional[Tensor] = None,
    ) -> Tensor:
        _check_whole(self)
        batch = program.describe(self, input_ids, position_ids, attention_mask, document_ids=document_ids)
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
    def describe(cls, config: Any, input_ids: Tensor) -> Tuple[Optional[Tensor], Optional[Tensor]]:
        return cls.model_class.describe(config, input_ids)

    @classmethod
    def stage_cost(cls, config: Any, name: str) -> float:
        """The head counts by its matrix: a decoder layer has about 12 hidden^2 weights, the head vocab x hidden."""
        if name == cls.head_name:
            return config.vocab_size / (12.0 * config.hidden_size)
        return super().stage_cost(config, name)

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
        document_ids: Optional[Tensor] = None,
    ) -> Tensor:
        """Logits [b, s, vocab] of token ids [b, s]; with labels, the mean loss over those that are not -100.

        Args:
            input_ids: int64 [b, s].
            labels: int64 [b, s]; labels[:, i] is the token that follows input_ids[:, i].
            position_ids: int64 [b, s]; 0, 1, ... (after what the cache holds) if None, or what the family makes of the
                ids (`describe`).
            attention_mask: see `Batch.attention_mask`.
            cache: keys and values of the tokens before these; extended by these.
            document_ids: see `Documents.numbers`: tokens look only at tokens of their own document. None if rows are
                one each.
        """
        _check_whole(self)
        ids = input_ids.reshape([-1])
        batch = program.describe(self, input_ids, position_ids, attention_mask, cache, document_ids)
        if labels is not None:
            return self.run(ids, batch, labels=labels.reshape([-1])) / kept_tokens([labels]).clip(min=1.0)
        return self.run(ids, batch, cache=cache).reshape([batch.size, batch.seq, -1])

    def train_batch(
        self,
        micro_batches: Sequence[MicroBatch],
        scale: float = 1.0,
        between: Callable[[], object] = lambda: None,
    ) -> Tensor:
        """Forward and backward over the micro batches of one step.

        Tokens are counted over those of all ranks first, so that a step does not depend on how it is split.

        Args:
            micro_batches: each with `input_ids` and `labels`, and perhaps some of `program.DESCRIBED`. All
                pipeline, tensor-parallel and sequence ranks are given the same ones.
            scale: factor of the gradients (loss scaling), not of the loss returned.
            between: called between two micro batches, but not in a pipeline, where several are under way at a time. It
                may raise: then the gradients are incomplete, to be cleared, and nothing is under way.

        Returns:
            The mean loss over all kept tokens of the global batch, on every rank: float32 scalar without gradient. The
            gradients of `scale` times it are added to what `self.gradients` holds: in a single process to `param.grad`,
            in the gradient dtype of the precision policy. `self.micro_losses` has the sum of the token losses of each
            micro batch, on the last rank of a pipeline.

        Raises:
            UsageError: the schedule does not take so many micro batches.
        """
        step = program.TrainingStep(self, micro_batches, scale)
        self.micro_losses = step.losses
        return step.run(between)

    def after_update(self, applied: bool) -> None:
        """Change what changes at the end of a step beside what the optimizer updates. All ranks call it together.

        Args:
            applied: whether the optimizer updated the weights; else the step was given up.
        """
        update_biases(self, applied)

    def eval_batch(self, batch: MicroBatch) -> Tuple[Tensor, Tensor]:
        """(sum of the token losses, number of kept tokens) of one micro batch: float32 scalars, without gradients.

        All pipeline, tensor-parallel and sequence ranks are given the same micro batch, and get the same result.
        """
        return program.evaluate(self, batch)

    def next_logits(self, input_ids: Tensor, cache: KVCache) -> Tensor:
        """Logits [b, vocab] of the token after `input_ids` [b, s], which are read after what `cache` holds and added
        to it. All pipeline and tensor-parallel ranks call it together and get the same."""
        return program.next_logits(self, input_ids, cache)


def _check_whole(model: StagedModel) -> None:
    mesh = topology()
    degrees = {
        "pipeline_parallel_degree": mesh.pp.size,
        "sep_parallel_degree": mesh.sep.size,
        "context_parallel_degree": mesh.cp.size,
    }
    for name, size in degrees.items():
        if size > 1:
            raise UsageError(
                f"With {name}={size} no process computes whole rows of tokens through {type(model).__name__}. "
                f"Call train_batch, eval_batch or generate of a ForCausalLM on all ranks together, or set {name} to 1"
            )


def pipe(causal_lm: Type[CausalLM]) -> Type[CausalLM]:
    """The `<Family>ForCausalLMPipe` of a `<Family>ForCausalLM`: the same stages under the name that pipelines use."""
    return type(
        f"{causal_lm.__name__}Pipe", (causal_lm,), {"__doc__": causal_lm.__doc__, "__module__": causal_lm.__module__}
    )
