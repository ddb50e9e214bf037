"""OPT (arXiv:2205.01068): learned positions, LayerNorm, ReLU, the embedding as head. OPT-350m has its norms after the
sums, and an embedding that is narrower than the layers."""

from __future__ import annotations

from functools import partial
from typing import Any, Iterator

from paddlenlp.nn import (
    MLP,
    Attention,
    CausalLM,
    DecoderLayer,
    DecoderModel,
    Embedding,
    LayerNorm,
    LearnedPositions,
    Linear,
    LMHead,
    dropout,
    pipe,
)

from .configuration import OPTConfig


class OPTDecoderLayer(DecoderLayer):
    """x + attention(norm(x)), then x + mlp(norm(x)); or norm(x + attention(x)), then norm(x + mlp(x))."""

    def __init__(self, config: OPTConfig, index: int) -> None:
        super().__init__()
        self.norm_first, self.dropout = config.normalize_before, config.hidden_dropout_prob
        self.self_attn = Attention(
            config,
            qkv_bias=config.enable_bias,
            out_bias=config.enable_bias,
            fused=config.get("fuse_attention_qkv", False),
            dropout=config.attention_probs_dropout_prob,
            out_name="out_proj",
        )
        self.self_attn_layer_norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.mlp = MLP(config, config.hidden_act, names=("fc1", "fc2"), bias=config.enable_bias)
        self.final_layer_norm = LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, x, batch):  # [tokens, hidden]
        x = self._add(x, lambda y: self.self_attn(y, batch), self.self_attn_layer_norm)
        return self._add(x, self.mlp, self.final_layer_norm)

    def _add(self, x, part, norm):
        y = x + dropout(part(norm(x) if self.norm_first else x), self.dropout, self.training)
        return y if self.norm_first else norm(y)


class OPTModel(DecoderModel):
    """Embedding, positions, decoder layers and closing norm; a narrow embedding is widened, and narrowed at the end."""

    config_class = OPTConfig
    layer_class = OPTDecoderLayer
    names = {"embed": "decoder.embed_tokens", "layers": "decoder.layers", "norm": "decoder.final_layer_norm"}

    @classmethod
    def build_embed(cls, config: OPTConfig) -> Embedding:
        return Embedding(config.vocab_size, config.word_embed_proj_dim)

    @classmethod
    def build_norm(cls, config: OPTConfig) -> LayerNorm:
        return LayerNorm(config.hidden_size, config.layer_norm_eps)

    @classmethod
    def build_positions(cls, config: OPTConfig) -> LearnedPositions:
        rate = config.hidden_dropout_prob
        return LearnedPositions(config.max_position_embeddings, config.hidden_size, offset=2, dropout=rate)

    @classmethod
    def stages(cls, config: OPTConfig) -> Iterator[Any]:
        narrow, wide = config.word_embed_proj_dim, config.hidden_size
        embedding, *layers, norm = super().stages(config)
        yield embedding
        if narrow != wide:
            yield "decoder.project_in", partial(Linear, narrow, wide)
        yield "decoder.embed_positions", partial(cls.build_positions, config)
        yield from layers
        if config.closes_with_norm:
            yield norm
        if narrow != wide:
            yield "decoder.project_out", partial(Linear, wide, narrow)


class OPTForCausalLM(CausalLM):
    """OPT with the embedding's matrix as head."""

    config_class = OPTConfig
    model_class = OPTModel
    base_model_prefix = "opt"
    hf_names = [(r"^opt\.", "model."), (r"\.mlp\.fc", ".fc")]
    other_names = [
        (r"\.decoder\.embed_tokens\.", ".embeddings.word_embeddings."),
        (r"\.decoder\.embed_positions\.", ".embeddings.position_embeddings."),
        (r"\.decoder\.project_in\.", ".embeddings.project_in."),
        (r"\.self_attn_layer_norm\.", ".norm1."),
        (r"(\.\d+)\.final_layer_norm\.", r"\1.norm2."),
        (r"\.mlp\.fc", ".linear"),
    ]

    @classmethod
    def build_head(cls, config: OPTConfig) -> LMHead:
        return LMHead(config.word_embed_proj_dim, config.vocab_size, config.tie_word_embeddings)


OPTForCausalLMPipe = pipe(OPTForCausalLM)
