"""ChatGLM2 and ChatGLM3 (arXiv:2406.12793): groups of queries share a key, rotary positions in half of each head, as
pairs of neighbours, SwiGLU; fused matrices throughout."""

from __future__ import annotations

from paddlenlp.nn import (
    Attention,
    CausalLM,
    DecoderLayer,
    DecoderModel,
    GatedMLP,
    LayerNorm,
    RMSNorm,
    Rotary,
    dropout,
    pipe,
)

from .configuration import ChatGLMv2Config


class ChatGLMv2Block(DecoderLayer):
    """x + attention(norm(x)), then x + mlp(norm(x)); or with the norm in place of x in both sums."""

    def __init__(self, config: ChatGLMv2Config, index: int) -> None:
        super().__init__()
        self.norm_goes_on, self.dropout = config.apply_residual_connection_post_layernorm, config.hidden_dropout
        self.input_layernorm = _norm(config)
        self.self_attention = Attention(
            config,
            Rotary(config.kv_channels // 2, 10000.0 * config.rope_ratio, interleaved=True),
            qkv_bias=config.add_bias_linear or config.add_qkv_bias,
            out_bias=config.add_bias_linear,
            fused=True,
            blocks=config.multi_query_attention,
            dropout=config.attention_dropout,
            fused_name="query_key_value",
            out_name="dense",
        )
        self.post_attention_layernorm = _norm(config)
        names = ("gate_proj", "up_proj", "dense_4h_to_h")
        options = dict(bias=config.add_bias_linear, fused=True, fused_name="dense_h_to_4h", names=names)
        self.mlp = GatedMLP(config, "silu", **options)

    def forward(self, x, batch):  # [tokens, hidden]
        y = self.input_layernorm(x)
        attended = self.self_attention(y, batch)
        x = (y if self.norm_goes_on else x) + dropout(attended, self.dropout, self.training)
        y = self.post_attention_layernorm(x)
        return (y if self.norm_goes_on else x) + dropout(self.mlp(y), self.dropout, self.training)


def _norm(config: ChatGLMv2Config):
    return (RMSNorm if config.rmsnorm else LayerNorm)(config.hidden_size, config.layernorm_epsilon)


class ChatGLMv2Model(DecoderModel):
    """Embedding, decoder layers and closing norm."""

    config_class = ChatGLMv2Config
    layer_class = ChatGLMv2Block
    names = {
        "embed": "embedding.word_embeddings",
        "layers": "encoder.layers",
        "norm": "encoder.final_layernorm",
    }

    @classmethod
    def build_norm(cls, config: ChatGLMv2Config):
        return _norm(config)


class ChatGLMv2ForCausalLM(CausalLM):
    """ChatGLM2 or 3 with its head."""

    config_class = ChatGLMv2Config
    model_class = ChatGLMv2Model
    base_model_prefix = "chatglm_v2"
    head_name = "chatglm_v2.output_layer"
    hf_names = [(r"^chatglm_v2\.", "transformer.")]
    hf_fused = ("query_key_value", "dense_h_to_4h")


ChatGLMv2ForCausalLMPipe = pipe(ChatGLMv2ForCausalLM)
