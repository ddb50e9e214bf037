"""GPT-2 and GPT-3."""

from __future__ import annotations

from paddlenlp.utils.lazy import lazy_module

__getattr__, __dir__, __all__ = lazy_module(
    __name__,
    {
        "GPTConfig": "configuration",
        "GPTBlock": "modeling",
        "GPTModel": "modeling",
        "GPTForCausalLM": "modeling",
        "GPTForCausalLMPipe": "modeling",
    },
)
