"""Configuration of the first series of Qwen."""

from __future__ import annotations

from typing import Any, Dict, List

from paddlenlp.transformers.configuration_utils import PretrainedConfig


class QWenConfig(PretrainedConfig):
    """Sizes and options of a Qwen. The defaults are those of Qwen-7B.

    `intermediate_size` is that of gate and up together. `seq_length` is how long the sequences of training are,
    max_position_embeddings until it is set: beyond it, and in evaluation only, `use_dynamic_ntk` and `use_logn_attn`
    act. All rows of a batch count as equally long there, whatever their masks say.
    """

    model_type = "qwen"
    attribute_map = {"kv_channels": "head_dim"}
    hf_spelling = {"head_dim": "kv_channels"}
    defaults = {
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 22016,
        "max_position_embeddings": 8192,
        "seq_length": None,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "head_dim": 128,
        "layer_norm_epsilon": 1e-6,
        "initializer_range": 0.02,
        "rotary_emb_base": 10000.0,
        "rotary_pct": 1.0,
        "use_dynamic_ntk": True,
        "use_logn_attn": True,
        "no_bias": True,
        "emb_dropout_prob": 0.0,
        "attn_dropout_prob": 0.0,
        "fuse_attention_ffn": False,
        "use_cache": True,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": False,
    }
    derived = {"seq_length": lambda config: config.max_position_embeddings}

    @property
    def rotary_dim(self) -> int:
        """How many features of a head turn."""
        return int(self.head_dim * self.rotary_pct)

    def problems(self) -> List[str]:
        found = super().problems()
        if found:
            return found
        if self.rotary_dim % 2:
            found.append(f"head_dim={self.head_dim} * rotary_pct={self.rotary_pct} must be even: pairs are turned")
        if self.intermediate_size % 2:
            found.append(f"intermediate_size={self.intermediate_size} must be even: it counts gate and up")
        if not self.get("scale_attn_weights", True):
            found.append("scale_attn_weights=False: only models with scaled attention scores are built")
        return found

    def to_hf_dict(self) -> Dict[str, Any]:
        return {**super().to_hf_dict(), "architectures": ["QWenLMHeadModel"]}
