"""LLaMA 1 to 3.3."""

from __future__ import annotations

from paddlenlp.utils.lazy import lazy_module

__getattr__, __dir__, __all__ = lazy_module(
    __name__,
    {
        "LlamaConfig": "configuration",
        "LlamaDecoderLayer": "modeling",
        "LlamaModel": "modeling",
        "LlamaForCausalLM": "modeling",
        "LlamaForCausalLMPipe": "modeling",
    },
)
