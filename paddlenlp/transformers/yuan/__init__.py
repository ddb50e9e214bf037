"""Yuan 2.0."""

from __future__ import annotations

from paddlenlp.utils.lazy import lazy_module

__getattr__, __dir__, __all__ = lazy_module(
    __name__,
    {
        "YuanConfig": "configuration",
        "YuanDecoderLayer": "modeling",
        "YuanModel": "modeling",
        "YuanForCausalLM": "modeling",
        "YuanForCausalLMPipe": "modeling",
    },
)
