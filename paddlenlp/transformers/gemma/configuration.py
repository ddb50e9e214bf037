"""Configuration of Gemma."""

from __future__ import annotations

from typing import Any, Dict, List

from paddlenlp.transformers.configuration_utils import PretrainedConfig
from paddlenlp.transformers.rope_options import hf_rope, normalize_rope, rope_problems


class GemmaConfig(PretrainedConfig):
    """Sizes and options of a Gemma. The defaults are Gemma-7B's; `rope_scaling` is read as LlamaConfig reads it.

    Released files say `hidden_act` "gelu" and mean its tanh approximation, "gelu_pytorch_tanh", as which it is read. A
    `hidden_activation` that is given wins over it.
    """

    model_type = "gemma"
    defaults = {
        "vocab_size": 256000,
        "hidden_size": 3072,
        "intermediate_size": 24576,
        "max_position_embeddings": 8192,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "head_dim": 256,
        "hidden_act": "gelu_pytorch_tanh",
        "initializer_range": 0.02,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "fuse_attention_qkv": False,
        "fuse_attention_ffn": False,
        "use_cache": True,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "tie_word_embeddings": True,
    }

    @classmethod
    def normalize(cls, values: Dict[str, Any]) -> Dict[str, Any]:
        values = super().normalize(normalize_rope(values))
        activation = values.pop("hidden_activation", None) or values.get("hidden_act")
        if activation is not None:
            values["hidden_act"] = "gelu_pytorch_tanh" if activation == "gelu" else activation
        return values

    def to_hf_dict(self) -> Dict[str, Any]:
        return hf_rope(super().to_hf_dict(), self.head_dim)

    def problems(self) -> List[str]:
        found = super().problems() + rope_problems(self.rope_scaling)
        if not found and self.head_dim % 2:
            found.append(f"head_dim={self.head_dim} must be even: rotary positions turn pairs of components")
        return found
