"""The first series of Qwen (arXiv:2309.16609): a LLaMA whose queries, keys and values are one matrix with biases; in
evaluation, sequences longer than those of training turn slower, and their queries grow."""

from __future__ import annotations

from functools import partial
from typing import Any, Iterator

from paddlenlp.nn import (
    Attention,
    CausalLM,
    DecoderLayer,
    DecoderModel,
    Dropout,
    GatedMLP,
    LogScaled,
    RMSNorm,
    Rotary,
    TrainOrEval,
    pipe,
)

from .configuration import QWenConfig


class QWenBlock(DecoderLayer):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: QWenConfig, index: int) -> None:
        super().__init__()
        self.ln_1 = RMSNorm(config.hidden_size, config.layer_norm_epsilon)
        self.attn = Attention(
            config,
            _positions(config),
            qkv_bias=True,
            out_bias=not config.no_bias,
            fused=True,
            blocks=True,
            dropout=config.attn_dropout_prob,
            fused_name="c_attn",
            out_name="c_proj",
        )
        self.ln_2 = RMSNorm(config.hidden_size, config.layer_norm_epsilon)
        self.mlp = GatedMLP(
            config,
            "silu",
            bias=not config.no_bias,
            fused=config.fuse_attention_ffn,
            names=("w2", "w1", "c_proj"),
            width=config.intermediate_size // 2,
        )

    def forward(self, x, batch):  # [tokens, hidden]
        x = x + self.attn(self.ln_1(x), batch)
        return x + self.mlp(self.ln_2(x))


def _positions(config: QWenConfig) -> TrainOrEval:
    base, trained = config.rotary_emb_base, config.seq_length
    scaling = {"rope_type": "doubling_ntk"} if config.use_dynamic_ntk else None
    evaluation: Any = Rotary(config.rotary_dim, base, scaling, trained)
    if config.use_logn_attn:
        evaluation = LogScaled(evaluation, trained)
    return TrainOrEval(Rotary(config.rotary_dim, base), evaluation)


class QWenModel(DecoderModel):
    """Embedding, decoder layers and closing norm."""

    config_class = QWenConfig
    layer_class = QWenBlock
    names = {"embed": "wte", "layers": "h", "norm": "ln_f"}

    @classmethod
    def build_norm(cls, config: QWenConfig) -> RMSNorm:
        return RMSNorm(config.hidden_size, config.layer_norm_epsilon)

    @classmethod
    def stages(cls, config: QWenConfig) -> Iterator[Any]:
        embedding, *others = super().stages(config)
        yield embedding
        if config.emb_dropout_prob:
            yield "drop", partial(Dropout, config.emb_dropout_prob)
        yield from others


class QWenForCausalLM(CausalLM):
    """Qwen with a head over the vocabulary."""

    config_class = QWenConfig
    model_class = QWenModel
    base_model_prefix = "qwen"
    hf_names = [(r"^qwen\.", "transformer.")]
    hf_fused = ("c_attn",)


QWenForCausalLMPipe = pipe(QWenForCausalLM)
