"""Configuration of ChatGLM-6B."""

from __future__ import annotations

from typing import Any, Dict, List

from paddlenlp.transformers.configuration_utils import PretrainedConfig


class ChatGLMConfig(PretrainedConfig):
    """Sizes and options of a ChatGLM-6B. `bos_token_id` begins the text after a context, `mask_token_id` marks a hole
    within the context, and `gmask_token_id` one at its end.

    `context_end_token_id` tells those who make labels that tokens before it see each other."""

    model_type = "chatglm"
    attribute_map = {
        "num_layers": "num_hidden_layers",
        "intermediate_size": "inner_hidden_size",
        "max_position_embeddings": "max_sequence_length",
        "seq_length": "max_sequence_length",
    }
    defaults = {
        "vocab_size": 130528,
        "hidden_size": 4096,
        "inner_hidden_size": 16384,
        "num_hidden_layers": 28,
        "num_attention_heads": 32,
        "max_sequence_length": 2048,
        "position_encoding_2d": True,
        "layernorm_epsilon": 1e-5,
        "initializer_range": 0.02,
        "bos_token_id": 130004,
        "eos_token_id": 130005,
        "pad_token_id": 3,
        "mask_token_id": 130000,
        "gmask_token_id": 130001,
        "tie_word_embeddings": True,
    }

    derived = {"context_end_token_id": lambda config: config.bos_token_id}

    def problems(self) -> List[str]:
        found = super().problems()
        if self.get("quantization_bit"):
            found.append(f"quantization_bit={self.quantization_bit}: quantised weights are not read")
        if self.get("pre_seq_len") is not None:
            found.append(f"pre_seq_len={self.pre_seq_len}: prefixes of prompt tuning are not built")
        part = 4 if self.position_encoding_2d else 2
        if not found and self.head_dim % part:
            found.append(f"head_dim={self.head_dim} must be a multiple of {part}: rotary positions turn pairs")
        return found

    def to_hf_dict(self) -> Dict[str, Any]:
        values = super().to_hf_dict()
        values["num_layers"] = values.pop("num_hidden_layers")
        return {**values, "architectures": ["ChatGLMModel"]}
