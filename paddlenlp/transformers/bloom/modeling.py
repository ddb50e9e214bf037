"""BLOOM (arXiv:2211.05100): linear position biases, queries, keys and values side by side for each head, a norm after
the embedding."""

from __future__ import annotations

from functools import partial
from typing import Any, Iterator

from paddlenlp.nn import MLP, Attention, CausalLM, DecoderLayer, DecoderModel, LayerNorm, alibi_slopes, dropout, pipe

from .configuration import BloomConfig


class BloomBlock(DecoderLayer):
    """x + attention(norm(x)), then x + mlp(norm(x)); or with the norm in place of x in both sums."""

    def __init__(self, config: BloomConfig, index: int) -> None:
        super().__init__()
        self.norm_goes_on, self.dropout = config.apply_residual_connection_post_layernorm, config.hidden_dropout
        self.input_layernorm = LayerNorm(config.hidden_size, config.layer_norm_epsilon)
        self.self_attention = Attention(
            config,
            qkv_bias=True,
            out_bias=True,
            fused=True,
            slopes=alibi_slopes(config.n_head),
            dropout=config.attention_dropout,
            fused_name="query_key_value",
            out_name="dense",
        )
        self.post_attention_layernorm = LayerNorm(config.hidden_size, config.layer_norm_epsilon)
        self.mlp = MLP(config, "gelu_new")

    def forward(self, x, batch):  # [tokens, hidden]
        y = self.input_layernorm(x)
        attended = self.self_attention(y, batch)
        x = (y if self.norm_goes_on else x) + dropout(attended, self.dropout, self.training)
        y = self.post_attention_layernorm(x)
        return (y if self.norm_goes_on else x) + dropout(self.mlp(y), self.dropout, self.training)


class BloomModel(DecoderModel):
    """Embedding, its norm, decoder layers and closing norm."""

    config_class = BloomConfig
    layer_class = BloomBlock
    names = {"embed": "word_embeddings", "layers": "h", "norm": "ln_f"}

    @classmethod
    def build_norm(cls, config: BloomConfig) -> LayerNorm:
        return LayerNorm(config.hidden_size, config.layer_norm_epsilon)

    @classmethod
    def stages(cls, config: BloomConfig) -> Iterator[Any]:
        embedding, *others = super().stages(config)
        yield embedding
        yield "word_embeddings_layernorm", partial(cls.build_norm, config)
        yield from others


class BloomForCausalLM(CausalLM):
    """BLOOM with the embedding's matrix as head."""

    config_class = BloomConfig
    model_class = BloomModel
    base_model_prefix = "bloom"
    hf_names = [(r"^bloom\.", "transformer.")]
    hf_fused = ("query_key_value",)


BloomForCausalLMPipe = pipe(BloomForCausalLM)
