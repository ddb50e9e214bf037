"""Classes that find the family of a model from its files."""

from __future__ import annotations

from paddlenlp.utils.lazy import lazy_module

__getattr__, __dir__, __all__ = lazy_module(
    __name__,
    {
        "AutoConfig": "configuration",
        "AutoModelForCausalLM": "modeling",
        "AutoModelForCausalLMPipe": "modeling",
        "AutoTokenizer": "tokenizer",
    },
)
