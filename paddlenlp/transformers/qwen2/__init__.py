"""Qwen1.5, Qwen2, Qwen2.5, QwQ and the models that share their architecture."""

from __future__ import annotations

from paddlenlp.utils.lazy import lazy_module

__getattr__, __dir__, __all__ = lazy_module(
    __name__,
    {
        "Qwen2Config": "configuration",
        "Qwen2DecoderLayer": "modeling",
        "Qwen2Model": "modeling",
        "Qwen2ForCausalLM": "modeling",
        "Qwen2ForCausalLMPipe": "modeling",
    },
)
