"""DeepSeek-V2 (arXiv:2405.04434): latent attention; after some dense layers, experts beside shared ones."""

from __future__ import annotations

from paddlenlp.nn import (
    Ahead,
    CausalLM,
    DecoderLayer,
    DecoderModel,
    GatedMLP,
    LatentAttention,
    MoE,
    PredictsAhead,
    RMSNorm,
    Rotary,
    Router,
    pipe,
)

from .configuration import DeepseekV2Config


class DeepseekV2DecoderLayer(DecoderLayer):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: DeepseekV2Config, index: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = LatentAttention(
            config,
            Rotary(
                config.qk_rope_head_dim,
                config.rope_theta,
                config.rope_scaling,
                config.max_position_embeddings,
                interleaved=config.get("rope_interleave", True),
            ),
            bias=config.attention_bias,
            scale=config.score_scale,
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


class DeepseekV2AheadLayer(Ahead, DeepseekV2DecoderLayer):
    """The layer behind the last one, that predicts the token after the next; in training only."""


def _experts(config: DeepseekV2Config) -> MoE:
    grouped = config.topk_method != "greedy"
    router = Router(
        config.hidden_size,
        config.n_routed_experts,
        config.num_experts_per_tok,
        scoring=config.scoring_func,
        renormalise=config.norm_topk_prob,
        scale=config.routed_scaling_factor,
        groups=config.n_group if grouped else 1,
        best_groups=config.topk_group if grouped else 1,
        corrected=config.topk_method == "noaux_tc",
        bias_step=config.bias_update_speed,
    )
    return MoE(
        config,
        router,
        config.moe_intermediate_size,
        config.hidden_act,
        shared_width=config.moe_intermediate_size * (config.n_shared_experts or 0),
        balance=config.aux_loss_alpha,
    )


class DeepseekV2Model(DecoderModel):
    """Embedding, decoder layers and closing norm."""

    config_class = DeepseekV2Config
    layer_class = DeepseekV2DecoderLayer


class DeepseekV2ForCausalLM(PredictsAhead, CausalLM):
    """DeepSeek-V2 with a head over the vocabulary."""

    config_class = DeepseekV2Config
    model_class = DeepseekV2Model
    base_model_prefix = "deepseek_v2"
    hf_names = [(r"^deepseek_v2\.", "model.")]
    ahead_class = DeepseekV2AheadLayer


DeepseekV2ForCausalLMPipe = pipe(DeepseekV2ForCausalLM)
