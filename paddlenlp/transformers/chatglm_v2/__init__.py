"""ChatGLM2 and ChatGLM3."""

from __future__ import annotations

from paddlenlp.utils.lazy import lazy_module

__getattr__, __dir__, __all__ = lazy_module(
    __name__,
    {
        "ChatGLMv2Config": "configuration",
        "ChatGLMv2Block": "modeling",
        "ChatGLMv2Model": "modeling",
        "ChatGLMv2ForCausalLM": "modeling",
        "ChatGLMv2ForCausalLMPipe": "modeling",
    },
)
