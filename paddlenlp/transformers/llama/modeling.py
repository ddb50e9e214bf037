"""LLaMA 1 to 3.3: pre-norm, rotary positions, grouped attention, SwiGLU."""

from __future__ import annotations

from paddlenlp.nn import Attention, CausalLM, DecoderModel, GatedMLP, PreNormLayer, RMSNorm, Rotary, pipe

from .configuration import LlamaConfig


class LlamaDecoderLayer(PreNormLayer):
    """Attention and MLP, each behind its norm."""

    def __init__(self, config: LlamaConfig, index: int) -> None:
        super().__init__()
        rotary = Rotary(config.head_dim, config.rope_theta, config.rope_scaling, config.max_position_embeddings)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(
            config,
            rotary,
            qkv_bias=config.attention_bias,
            out_bias=config.attention_bias,
            fused=config.fuse_attention_qkv,
            dropout=config.attention_dropout,
        )
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = GatedMLP(config, config.hidden_act, bias=config.mlp_bias, fused=config.fuse_attention_ffn)


class LlamaModel(DecoderModel):
    """Embedding, decoder layers and closing norm."""

    config_class = LlamaConfig
    layer_class = LlamaDecoderLayer


class LlamaForCausalLM(CausalLM):
    """LLaMA with a head over the vocabulary."""

    config_class = LlamaConfig
    model_class = LlamaModel
    base_model_prefix = "llama"
    hf_names = [(r"^llama\.", "model.")]


LlamaForCausalLMPipe = pipe(LlamaForCausalLM)
