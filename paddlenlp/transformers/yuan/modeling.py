"""Yuan 2.0 (arXiv:2311.15786): a LLaMA whose queries and keys are made of hidden states that are filtered over
neighbouring tokens, and whose MLP activates `up_proj`."""

from __future__ import annotations

from paddlenlp.nn import CausalLM, DecoderLayer, DecoderModel, FilteredAttention, GatedMLP, RMSNorm, Rotary, pipe

from .configuration import YuanConfig


class YuanDecoderLayer(DecoderLayer):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: YuanConfig, index: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = FilteredAttention(config, Rotary(config.head_dim))
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        names = ("up_proj", "gate_proj", "down_proj")
        self.mlp = GatedMLP(config, config.hidden_act, fused=config.fuse_attention_ffn, names=names)

    def forward(self, x, batch):  # [tokens, hidden]
        x = x + self.self_attn(self.input_layernorm(x), batch)
        return x + self.mlp(self.post_attention_layernorm(x))


class YuanModel(DecoderModel):
    """Embedding, decoder layers and closing norm."""

    config_class = YuanConfig
    layer_class = YuanDecoderLayer

    @classmethod
    def build_norm(cls, config: YuanConfig) -> RMSNorm:
        return RMSNorm(config.hidden_size, config.rms_norm_eps)


class YuanForCausalLM(CausalLM):
    """Yuan 2.0 with a head over the vocabulary."""

    config_class = YuanConfig
    model_class = YuanModel
    base_model_prefix = "yuan"
    hf_names = [(r"^yuan\.", "model.")]


YuanForCausalLMPipe = pipe(YuanForCausalLM)
