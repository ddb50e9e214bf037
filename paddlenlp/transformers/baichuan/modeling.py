"""Baichuan and Baichuan 2 (arXiv:2309.10305): a LLaMA whose queries, keys and values are one matrix; the 13B models
have linear position biases in place of rotary positions, and Baichuan 2 scores tokens by vectors of unit length."""

from __future__ import annotations

from paddlenlp.nn import (
    Attention,
    CausalLM,
    DecoderModel,
    GatedMLP,
    LMHead,
    PreNormLayer,
    RMSNorm,
    Rotary,
    alibi_slopes,
    pipe,
)

from .configuration import BaichuanConfig


class BaichuanDecoderLayer(PreNormLayer):
    """Attention and MLP, each behind its norm."""

    def __init__(self, config: BaichuanConfig, index: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(
            config,
            None if config.alibi else Rotary(config.head_dim),
            fused=True,
            blocks=True,
            slopes=alibi_slopes(config.num_attention_heads) if config.alibi else None,
            fused_name="W_pack",
        )
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = GatedMLP(config, config.hidden_act, fused=config.fuse_attention_ffn)


class BaichuanModel(DecoderModel):
    """Embedding, decoder layers and closing norm."""

    config_class = BaichuanConfig
    layer_class = BaichuanDecoderLayer


class BaichuanForCausalLM(CausalLM):
    """Baichuan with a head over the vocabulary."""

    config_class = BaichuanConfig
    model_class = BaichuanModel
    base_model_prefix = "baichuan"
    hf_names = [(r"^baichuan\.", "model.")]
    hf_fused = ("W_pack",)

    @classmethod
    def build_head(cls, config: BaichuanConfig) -> LMHead:
        head = (config.hidden_size, config.vocab_size, config.tie_word_embeddings)
        return LMHead(*head, normalised=config.normalised_head)


BaichuanForCausalLMPipe = pipe(BaichuanForCausalLM)
