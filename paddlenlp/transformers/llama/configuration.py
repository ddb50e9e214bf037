"""Configuration of LLaMA 1 to 3.3 and of the models that share their architecture."""

from __future__ import annotations

from typing import Any, Dict, List

from paddlenlp.transformers.configuration_utils import PretrainedConfig
from paddlenlp.transformers.rope_options import hf_rope, normalize_rope, rope_problems


class LlamaConfig(PretrainedConfig):
    """Sizes and options of a LLaMA. The defaults are LLaMA-7B's.

    `num_key_value_heads` follows `num_attention_heads`, and `head_dim` is hidden_size / num_attention_heads, until they
    are set. `rope_scaling` is None or `{"rope_type": "linear" | "ntk" | "dynamic" | "llama3", ...}`; other spellings of
    the rotary options are read too.
    """

    model_type = "llama"
    attribute_map = {
        "n_positions": "max_position_embeddings",
        "n_embd": "hidden_size",
        "n_layer": "num_hidden_layers",
        "n_head": "num_attention_heads",
        "n_inner": "intermediate_size",
        "activation_function": "hidden_act",
    }
    defaults = {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "max_position_embeddings": 2048,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": None,
        "head_dim": None,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "fuse_attention_qkv": False,
        "fuse_attention_ffn": False,
        "use_cache": True,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": False,
    }

    @classmethod
    def normalize(cls, values: Dict[str, Any]) -> Dict[str, Any]:
        return super().normalize(normalize_rope(values))

    def to_hf_dict(self) -> Dict[str, Any]:
        return hf_rope(super().to_hf_dict(), self.head_dim)

    def problems(self) -> List[str]:
        found = super().problems() + rope_problems(self.rope_scaling)
        if self.get("alibi"):
            found.append("alibi=true: this family has rotary positions only, no linear position biases")
        if not found and self.head_dim % 2:
            found.append(f"head_dim={self.head_dim} must be even: rotary positions turn pairs of components")
        return found
