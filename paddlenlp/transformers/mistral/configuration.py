"""Configuration of Mistral."""

from __future__ import annotations

from typing import Any, Dict, List

from paddlenlp.transformers.configuration_utils import PretrainedConfig
from paddlenlp.transformers.rope_options import hf_rope, normalize_rope, rope_problems


class MistralConfig(PretrainedConfig):
    """Sizes and options of a Mistral. `rope_scaling` is read in every spelling that LlamaConfig reads.

    Every layer sees only the last `sliding_window` tokens; all where it is None.
    """

    model_type = "mistral"
    defaults = {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "max_position_embeddings": 131072,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": None,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "sliding_window": 4096,
        "attention_dropout": 0.0,
        "fuse_attention_qkv": False,
        "fuse_attention_ffn": False,
        "use_cache": True,
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
        if not found and self.head_dim % 2:
            found.append(f"head_dim={self.head_dim} must be even: rotary positions turn pairs of components")
        if self.sliding_window is not None and not (isinstance(self.sliding_window, int) and self.sliding_window > 0):
            found.append(f"sliding_window={self.sliding_window!r} must be a number of tokens, or null for all")
        return found
