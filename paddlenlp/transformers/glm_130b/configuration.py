"""Configuration of GLM-130B."""

from __future__ import annotations

from typing import Any, Dict

from paddlenlp.transformers.chatglm.configuration import ChatGLMConfig
from paddlenlp.transformers.configuration_utils import PretrainedConfig


class GLM130BConfig(ChatGLMConfig):
    """Sizes and options of a GLM-130B, under the names of ChatGLM-6B, whose parent it is."""

    model_type = "glm_130b"
    attribute_map = {"mlp_hidden_size": "inner_hidden_size"}
    defaults = {
        "vocab_size": 150528,
        "hidden_size": 12288,
        "inner_hidden_size": 32768,
        "num_hidden_layers": 70,
        "num_attention_heads": 96,
        "position_encoding_2d": False,
        "initializer_range": 0.0052,
        "bos_token_id": 150004,
        "eos_token_id": 150005,
        "pad_token_id": None,
        "mask_token_id": 150000,
        "gmask_token_id": 150001,
    }

    def to_hf_dict(self) -> Dict[str, Any]:
        return PretrainedConfig.to_hf_dict(self)  # there is no such model in Hugging Face transformers
