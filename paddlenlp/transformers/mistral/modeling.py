"""Mistral (arXiv:2310.06825): a LLaMA with grouped heads whose layers may see only a window of the last tokens."""

from __future__ import annotations

from paddlenlp.nn import Attention, CausalLM, DecoderModel, GatedMLP, PreNormLayer, RMSNorm, Rotary, pipe

from .configuration import MistralConfig


class MistralDecoderLayer(PreNormLayer):
    """Attention and MLP, each behind its norm."""

    def __init__(self, config: MistralConfig, index: int) -> None:
        super().__init__()
        rotary = Rotary(config.head_dim, config.rope_theta, config.rope_scaling, config.max_position_embeddings)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(
            config,
            rotary,
            fused=config.fuse_attention_qkv,
            window=config.sliding_window,
            dropout=config.attention_dropout,
        )
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = GatedMLP(config, config.hidden_act, fused=config.fuse_attention_ffn)


class MistralModel(DecoderModel):
    """Embedding, decoder layers and closing norm."""

    config_class = MistralConfig
    layer_class = MistralDecoderLayer


class MistralForCausalLM(CausalLM):
    """Mistral with a head over the vocabulary."""

    config_class = MistralConfig
    model_class = MistralModel
    base_model_prefix = "mistral"
    hf_names = [(r"^mistral\.", "model.")]


MistralForCausalLMPipe = pipe(MistralForCausalLM)
