"""ChatGLM-6B."""

from __future__ import annotations

from paddlenlp.utils.lazy import lazy_module

__getattr__, __dir__, __all__ = lazy_module(
    __name__,
    {
        "ChatGLMConfig": "configuration",
        "ChatGLMBlock": "modeling",
        "ChatGLMModel": "modeling",
        "ChatGLMForCausalLM": "modeling",
        "ChatGLMForCausalLMPipe": "modeling",
    },
)
