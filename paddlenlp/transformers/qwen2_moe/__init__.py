"""Qwen1.5-MoE and Qwen2-MoE."""

from __future__ import annotations

from paddlenlp.utils.lazy import lazy_module

__getattr__, __dir__, __all__ = lazy_module(
    __name__,
    {
        "Qwen2MoeConfig": "configuration",
        "Qwen2MoeDecoderLayer": "modeling",
        "Qwen2MoeModel": "modeling",
        "Qwen2MoeForCausalLM": "modeling",
        "Qwen2MoeForCausalLMPipe": "modeling",
    },
)
