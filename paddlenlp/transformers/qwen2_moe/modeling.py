"""Qwen1.5-MoE and Qwen2-MoE (arXiv:2407.10671, section 2.2.2): a Qwen2 with small experts beside a shared one, which
each token weighs by a sigmoid of its own."""

from __future__ import annotations

from paddlenlp.nn import Attention, CausalLM, DecoderLayer, DecoderModel, GatedMLP, MoE, RMSNorm, Rotary, Router, pipe

from .configuration import Qwen2MoeConfig


class Qwen2MoeDecoderLayer(DecoderLayer):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: Qwen2MoeConfig, index: int) -> None:
        super().__init__()
        rotary = Rotary(config.head_dim, config.rope_theta, config.rope_scaling, config.max_position_embeddings)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(
            config,
            rotary,
            qkv_bias=config.qkv_bias,
            fused=config.fuse_attention_qkv,
            window=config.window(index),
            dropout=config.attention_dropout,
        )
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.sparse = config.is_sparse(index)
        if self.sparse:
            self.mlp = _experts(config)
        else:
            self.mlp = GatedMLP(config, config.hidden_act, fused=config.fuse_attention_ffn)

    def forward(self, x, batch):  # [tokens, hidden]
        x = x + self.self_attn(self.input_layernorm(x), batch)
        y = self.post_attention_layernorm(x)
        return x + (self.mlp(y, batch) if self.sparse else self.mlp(y))


def _experts(config: Qwen2MoeConfig) -> MoE:
    return MoE(
        config,
        Router(config.hidden_size, config.num_experts, config.num_experts_per_tok, renormalise=config.norm_topk_prob),
        config.moe_intermediate_size,
        config.hidden_act,
        shared_width=config.shared_expert_intermediate_size,
        shared_name="shared_expert",
        shared_gated=True,
        balance=config.balance,
    )


class Qwen2MoeModel(DecoderModel):
    """Embedding, decoder layers and closing norm."""

    config_class = Qwen2MoeConfig
    layer_class = Qwen2MoeDecoderLayer


class Qwen2MoeForCausalLM(CausalLM):
    """Qwen2-MoE with a head over the vocabulary."""

    config_class = Qwen2MoeConfig
    model_class = Qwen2MoeModel
    base_model_prefix = "qwen2_moe"
    hf_names = [(r"^qwen2_moe\.", "model.")]


Qwen2MoeForCausalLMPipe = pipe(Qwen2MoeForCausalLM)
