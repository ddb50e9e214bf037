"""Gemma (arXiv:2403.08295): a LLaMA with GeGLU, norms that multiply by 1 + weight, heads of a width of their own, and
embeddings, shared with the head, that are scaled by sqrt(hidden)."""

from __future__ import annotations

from paddlenlp.nn import Attention, CausalLM, DecoderModel, Embedding, GatedMLP, PreNormLayer, RMSNorm, Rotary, pipe

from .configuration import GemmaConfig


class GemmaDecoderLayer(PreNormLayer):
    """Attention and MLP, each behind its norm."""

    def __init__(self, config: GemmaConfig, index: int) -> None:
        super().__init__()
        rotary = Rotary(config.head_dim, config.rope_theta, config.rope_scaling, config.max_position_embeddings)
        self.input_layernorm = _norm(config)
        self.self_attn = Attention(
            config,
            rotary,
            qkv_bias=config.attention_bias,
            out_bias=config.attention_bias,
            fused=config.fuse_attention_qkv,
            dropout=config.attention_dropout,
        )
        self.post_attention_layernorm = _norm(config)
        self.mlp = GatedMLP(config, config.hidden_act, fused=config.fuse_attention_ffn)


def _norm(config: GemmaConfig) -> RMSNorm:
    return RMSNorm(config.hidden_size, config.rms_norm_eps, offset=1.0)


class GemmaModel(DecoderModel):
    """Embedding, decoder layers and closing norm."""

    config_class = GemmaConfig
    layer_class = GemmaDecoderLayer

    @classmethod
    def build_embed(cls, config: GemmaConfig) -> Embedding:
        return Embedding(config.vocab_size, config.hidden_size, scale=config.hidden_size**0.5)

    @classmethod
    def build_norm(cls, config: GemmaConfig) -> RMSNorm:
        return _norm(config)


class GemmaForCausalLM(CausalLM):
    """Gemma with the embedding's matrix as head."""

    config_class = GemmaConfig
    model_class = GemmaModel
    base_model_prefix = "gemma"
    hf_names = [(r"^gemma\.", "model.")]


GemmaForCausalLMPipe = pipe(GemmaForCausalLM)
