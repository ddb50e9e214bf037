"""GPT-2 and GPT-3 (arXiv:2005.14165): learned positions, pre-norm with LayerNorm, GELU, the embedding as head."""

from __future__ import annotations

from functools import partial
from typing import Any, Iterator

from paddlenlp.nn import (
    MLP,
    Attention,
    CausalLM,
    DecoderLayer,
    DecoderModel,
    LayerNorm,
    LearnedPositions,
    dropout,
    pipe,
)

from .configuration import GPTConfig


class GPTBlock(DecoderLayer):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: GPTConfig, index: int) -> None:
        super().__init__()
        self.dropout = config.hidden_dropout_prob
        self.ln_1 = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.attn = Attention(
            config,
            qkv_bias=True,
            out_bias=True,
            fused=True,
            blocks=True,
            dropout=config.attention_probs_dropout_prob,
            fused_name="c_attn",
            out_name="c_proj",
        )
        self.ln_2 = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.mlp = MLP(config, config.hidden_act, names=("c_fc", "c_proj"))

    def forward(self, x, batch):  # [tokens, hidden]
        x = x + dropout(self.attn(self.ln_1(x), batch), self.dropout, self.training)
        return x + dropout(self.mlp(self.ln_2(x)), self.dropout, self.training)


class GPTModel(DecoderModel):
    """Embedding, positions, decoder layers and closing norm."""

    config_class = GPTConfig
    layer_class = GPTBlock
    names = {"embed": "wte", "layers": "h", "norm": "ln_f"}

    @classmethod
    def build_norm(cls, config: GPTConfig) -> LayerNorm:
        return LayerNorm(config.hidden_size, config.layer_norm_eps)

    @classmethod
    def build_positions(cls, config: GPTConfig) -> LearnedPositions:
        rate = config.embedding_dropout_prob
        return LearnedPositions(config.max_position_embeddings, config.hidden_size, dropout=rate)

    @classmethod
    def stages(cls, config: GPTConfig) -> Iterator[Any]:
        embedding, *others = super().stages(config)
        yield embedding
        yield "wpe", partial(cls.build_positions, config)
        yield from others


class GPTForCausalLM(CausalLM):
    """GPT with the embedding's matrix as head."""

    config_class = GPTConfig
    model_class = GPTModel
    base_model_prefix = "gpt"
    hf_names = [(r"^gpt\.", "transformer.")]
    hf_fused = ("c_attn",)
    hf_out_first = False
    other_names = [
        (r"\.wte\.", ".embeddings.word_embeddings."),
        (r"\.wpe\.", ".embeddings.position_embeddings."),
        (r"\.ln_f\.", ".decoder.norm."),
        (r"\.h\.(\d+)\.", r".decoder.layers.\1."),
        (r"\.ln_(\d)\.", r".norm\1."),
        (r"\.attn\.c_proj\.", ".self_attn.out_proj."),
        (r"\.attn\.", ".self_attn."),
        (r"\.mlp\.c_fc\.", ".linear1."),
        (r"\.mlp\.c_proj\.", ".linear2."),
    ]


GPTForCausalLMPipe = pipe(GPTForCausalLM)
