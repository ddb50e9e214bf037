"""ChatGLM-6B, a GLM (arXiv:2103.10360): a context whose tokens see each other and a text after it, two positions for
each token, residual streams of the normed input."""

from __future__ import annotations

from typing import Any

from paddlenlp.nn import (
    MLP,
    Attention,
    CausalLM,
    DecoderLayer,
    DecoderModel,
    LayerNorm,
    Rotary,
    Rotary2D,
    context_lengths,
    infilling_mask,
    infilling_positions,
    pipe,
)

from .configuration import ChatGLMConfig


class ChatGLMBlock(DecoderLayer):
    """y = norm(x), x = alpha y + attention(y), then z = norm(x), x = alpha z + mlp(z): DeepNorm (arXiv:2203.00555), its
    norms after the sums counted as those before the next."""

    def __init__(self, config: ChatGLMConfig, index: int) -> None:
        super().__init__()
        self.alpha = (2 * config.num_hidden_layers) ** 0.5
        self.input_layernorm = _norm(config)
        self.attention = Attention(
            config,
            Rotary2D(config.head_dim) if config.position_encoding_2d else Rotary(config.head_dim),
            qkv_bias=True,
            out_bias=True,
            fused=True,
            fused_name="query_key_value",
            out_name="dense",
        )
        self.post_attention_layernorm = _norm(config)
        self.mlp = self.build_mlp(config)
        # DeepNorm's initial values: of queries, keys and values the values are small, and all that follows them.
        self.attention.query_key_value.weight.init_scale = (1.0, 1.0, 1 / self.alpha)
        self.mlp.dense_h_to_4h.weight.init_scale = 1 / self.alpha

    @classmethod
    def build_mlp(cls, config: ChatGLMConfig) -> Any:
        """The feed-forward block."""
        return MLP(config, "gelu_new")

    def forward(self, x, batch):  # [tokens, hidden]
        y = self.input_layernorm(x)
        y = self.post_attention_layernorm(y * self.alpha + self.attention(y, batch))
        return y * self.alpha + self.mlp(y)


def _norm(config: ChatGLMConfig) -> LayerNorm:
    return LayerNorm(config.hidden_size, config.layernorm_epsilon)


class ChatGLMModel(DecoderModel):
    """Embedding, decoder layers and closing norm."""

    config_class = ChatGLMConfig
    layer_class = ChatGLMBlock
    names = {
        "embed": "transformer.word_embeddings",
        "layers": "transformer.layers",
        "norm": "transformer.final_layernorm",
    }

    @classmethod
    def build_norm(cls, config: ChatGLMConfig) -> LayerNorm:
        return _norm(config)

    @classmethod
    def describe(cls, config, input_ids):
        lengths = context_lengths(input_ids, config.bos_token_id)
        holes = config.mask_token_id, config.gmask_token_id
        positions = infilling_positions(input_ids, lengths, *holes, two=config.position_encoding_2d)
        return positions, infilling_mask(lengths, input_ids.shape[1])


class ChatGLMForCausalLM(CausalLM):
    """ChatGLM-6B with the embedding's matrix as head."""

    config_class = ChatGLMConfig
    model_class = ChatGLMModel
    base_model_prefix = "chatglm"
    hf_names = [(r"^chatglm\.", "")]
    hf_fused = ("query_key_value",)


ChatGLMForCausalLMPipe = pipe(ChatGLMForCausalLM)
