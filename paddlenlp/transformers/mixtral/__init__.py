"""Mixtral."""

from __future__ import annotations

from paddlenlp.utils.lazy import lazy_module

__getattr__, __dir__, __all__ = lazy_module(
    __name__,
    {
        "MixtralConfig": "configuration",
        "MixtralDecoderLayer": "modeling",
        "MixtralModel": "modeling",
        "MixtralForCausalLM": "modeling",
        "MixtralForCausalLMPipe": "modeling",
    },
)
