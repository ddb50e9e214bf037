"""Qwen1.5, Qwen2, Qwen2.5 and QwQ: a LLaMA whose queries, keys and values have biases; some layers may see a window."""

from __future__ import annotations

from paddlenlp.nn import Attention, CausalLM, DecoderModel, GatedMLP, PreNormLayer, RMSNorm, Rotary, pipe

from .configuration import Qwen2Config


class Qwen2DecoderLayer(PreNormLayer):
    """Attention and MLP, each behind its norm."""

    def __init__(self, config: Qwen2Config, index: int) -> None:
        super().__init__()
        rotary = Rotary(config.head_dim, config.rope_theta, config.rope_scaling, config.max_position_embeddings)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(
            config,
            rotary,
            qkv_bias=True,
            fused=config.fuse_attention_qkv,
            window=config.window(index),
            dropout=config.attention_dropout,
        )
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = GatedMLP(config, config.hidden_act, fused=config.fuse_attention_ffn)


class Qwen2Model(DecoderModel):
    """Embedding, decoder layers and closing norm."""

    config_class = Qwen2Config
    layer_class = Qwen2DecoderLayer


class Qwen2ForCausalLM(CausalLM):
    """Qwen2 with a head over the vocabulary; small ones share it with the embedding."""

    config_class = Qwen2Config
    model_class = Qwen2Model
    base_model_prefix = "qwen2"
    hf_names = [(r"^qwen2\.", "model.")]


Qwen2ForCausalLMPipe = pipe(Qwen2ForCausalLM)
