"""OPT."""

from __future__ import annotations

from paddlenlp.utils.lazy import lazy_module

__getattr__, __dir__, __all__ = lazy_module(
    __name__,
    {
        "OPTConfig": "configuration",
        "OPTDecoderLayer": "modeling",
        "OPTModel": "modeling",
        "OPTForCausalLM": "modeling",
        "OPTForCausalLMPipe": "modeling",
    },
)
