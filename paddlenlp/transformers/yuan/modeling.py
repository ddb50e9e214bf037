"""Yuan 2.0 (arXiv:2311.15786): a LLaMA whose queries and keys are made of hidden states that are filtered over
neighbouring tokens, and whose MLP activates `up_proj`."""

from __future__ import annotations

from paddlenlp.nn import CausalLM, DecoderModel, FilteredAttention, GatedMLP, PreNormLayer, RMSNorm, Rotary, pipe

from .configuration import YuanConfig


class YuanDecoderLayer(PreNormLayer):
    """Attention and MLP, each behind its norm."""

    def __init__(self, config: YuanConfig, index: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = FilteredAttention(config, Rotary(config.head_dim))
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        names = ("up_proj", "gate_proj", "down_proj")
        self.mlp = GatedMLP(config, config.hidden_act, fused=config.fuse_attention_ffn, names=names)


class YuanModel(DecoderModel):
    """Embedding, decoder layers and closing norm."""

    config_class = YuanConfig
    layer_class = YuanDecoderLayer


class YuanForCausalLM(CausalLM):
    """Yuan 2.0 with a head over the vocabulary."""

    config_class = YuanConfig
    model_class = YuanModel
    base_model_prefix = "yuan"
    hf_names = [(r"^yuan\.", "model.")]


YuanForCausalLMPipe = pipe(YuanForCausalLM)
