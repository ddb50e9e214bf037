"""Configuration of Qwen1.5, Qwen2, Qwen2.5 and QwQ."""

from __future__ import annotations

from typing import Any, Dict, List, Optional

from paddlenlp.transformers.configuration_utils import PretrainedConfig
from paddlenlp.transformers.rope_options import hf_rope, normalize_rope, rope_problems


class Qwen2Config(PretrainedConfig):
    """Sizes and options of a Qwen2. `rope_scaling` is read in every spelling that LlamaConfig reads.

    With `use_sliding_window` the layers from `max_window_layers` on, or those that `layer_types` calls
    "sliding_attention", see only the last `sliding_window` tokens.
    """

    model_type = "qwen2"
    defaults = {
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 22016,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "head_dim": None,
        "hidden_act": "silu",
        "max_position_embeddings": 32768,
        "initializer_range": 0.02,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "use_sliding_window": False,
        "sliding_window": 4096,
        "max_window_layers": 28,
        "attention_dropout": 0.0,
        "fuse_attention_qkv": False,
        "fuse_attention_ffn": False,
        "use_cache": True,
        "pad_token_id": 0,
        "bos_token_id": 151643,
        "eos_token_id": 151643,
        "tie_word_embeddings": False,
    }

    @classmethod
    def normalize(cls, values: Dict[str, Any]) -> Dict[str, Any]:
        return super().normalize(normalize_rope(values))

    def to_hf_dict(self) -> Dict[str, Any]:
        return hf_rope(super().to_hf_dict(), self.head_dim)

    def window(self, index: int) -> Optional[int]:
        """How many tokens decoder layer `index` sees; None for all."""
        if not self.use_sliding_window:
            return None
        kinds = self.get("layer_types")
        slides = kinds[index] == "sliding_attention" if kinds else index >= self.max_window_layers
        return self.sliding_window if slides else None

    def problems(self) -> List[str]:
        found = super().problems() + rope_problems(self.rope_scaling)
        if not found and self.head_dim % 2:
            found.append(f"head_dim={self.head_dim} must be even: rotary positions turn pairs of components")
        if self.use_sliding_window and not _is_width(self.sliding_window):
            found.append(f"sliding_window={self.sliding_window!r} must be a number of tokens with use_sliding_window")
        kinds = self.get("layer_types")
        if self.use_sliding_window and kinds and len(kinds) < self.num_hidden_layers:
            found.append(f"layer_types names {len(kinds)} of num_hidden_layers={self.num_hidden_layers} layers")
        return found


def _is_width(value: Any) -> bool:
    return isinstance(value, int) and value > 0
