"""Mixtral (arXiv:2401.04088): a LLaMA whose every MLP is a mixture of experts with renormalised weights."""

from __future__ import annotations

from paddlenlp.nn import Attention, CausalLM, DecoderLayer, DecoderModel, MoE, RMSNorm, Rotary, Router, pipe

from .configuration import MixtralConfig


class MixtralDecoderLayer(DecoderLayer):
    """x + attention(norm(x)), then x + experts(norm(x))."""

    def __init__(self, config: MixtralConfig, index: int) -> None:
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
        router = Router(config.hidden_size, config.num_local_experts, config.num_experts_per_tok, renormalise=True)
        self.block_sparse_moe = MoE(
            config,
            router,
            config.intermediate_size,
            config.hidden_act,
            names=("w1", "w3", "w2"),
            balance=config.balance,
        )

    def forward(self, x, batch):  # [tokens, hidden]
        x = x + self.self_attn(self.input_layernorm(x), batch)
        return x + self.block_sparse_moe(self.post_attention_layernorm(x), batch)


class MixtralModel(DecoderModel):
    """Embedding, decoder layers and closing norm."""

    config_class = MixtralConfig
    layer_class = MixtralDecoderLayer


class MixtralForCausalLM(CausalLM):
    """Mixtral with a head over the vocabulary."""

    config_class = MixtralConfig
    model_class = MixtralModel
    base_model_prefix = "mixtral"
    hf_names = [(r"^mixtral\.", "model.")]


MixtralForCausalLMPipe = pipe(MixtralForCausalLM)
