"""Mistral."""

from __future__ import annotations

from paddlenlp.utils.lazy import lazy_module

__getattr__, __dir__, __all__ = lazy_module(
    __name__,
    {
        "MistralConfig": "configuration",
        "MistralDecoderLayer": "modeling",
        "MistralModel": "modeling",
        "MistralForCausalLM": "modeling",
        "MistralForCausalLMPipe": "modeling",
    },
)
