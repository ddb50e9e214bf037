"""Qwen, the first series."""

from __future__ import annotations

from paddlenlp.utils.lazy import lazy_module

__getattr__, __dir__, __all__ = lazy_module(
    __name__,
    {
        "QWenConfig": "configuration",
        "QWenBlock": "modeling",
        "QWenModel": "modeling",
        "QWenForCausalLM": "modeling",
        "QWenForCausalLMPipe": "modeling",
    },
)
