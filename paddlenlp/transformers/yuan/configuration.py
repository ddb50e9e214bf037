"""Configuration of Yuan 2.0."""

from __future__ import annotations

from typing import Any, Dict, List

from paddlenlp.transformers.configuration_utils import PretrainedConfig


class YuanConfig(PretrainedConfig):
    """Sizes and options of a Yuan. The defaults are those of Yuan2-2B.

    Yuan 2.0 trains on all tokens that have labels; a `use_loss_mask`, by which special tokens say what counts, is left
    to the data.
    """

    model_type = "yuan"
    defaults = {
        "vocab_size": 135040,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "max_position_embeddings": 8192,
        "num_hidden_layers": 24,
        "num_attention_heads": 32,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "rms_norm_eps": 1e-6,
        "fuse_attention_ffn": False,
        "use_cache": True,
        "pad_token_id": 77185,
        "bos_token_id": 77185,
        "eos_token_id": 77185,
        "tie_word_embeddings": True,
    }

    @classmethod
    def normalize(cls, values: Dict[str, Any]) -> Dict[str, Any]:
        values = super().normalize(values)
        if values.get("num_key_value_heads", 0) is None:
            del values["num_key_value_heads"]
        return values

    def problems(self) -> List[str]:
        found = super().problems()
        if self.get("use_shareqk", False):
            found.append("use_shareqk=True: models whose queries and keys are made of one matrix are not built")
        if not self.get("causal_mask", True):
            found.append("causal_mask=False: only models whose tokens don't see later ones are built")
        if not found and self.num_key_value_heads != self.num_attention_heads:
            found.append(f"num_key_value_heads={self.num_key_value_heads}: each query head has a key head of its own")
        if not found and self.hidden_size % 2:
            found.append(f"hidden_size={self.hidden_size} must be even: the localised filter halves it inside")
        if not found and self.head_dim % 2:
            found.append(f"head_dim={self.head_dim} must be even: rotary positions turn pairs of components")
        return found
