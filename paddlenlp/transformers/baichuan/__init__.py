"""Baichuan and Baichuan 2."""

from __future__ import annotations

from paddlenlp.utils.lazy import lazy_module

__getattr__, __dir__, __all__ = lazy_module(
    __name__,
    {
        "BaichuanConfig": "configuration",
        "BaichuanDecoderLayer": "modeling",
        "BaichuanModel": "modeling",
        "BaichuanForCausalLM": "modeling",
        "BaichuanForCausalLMPipe": "modeling",
    },
)
