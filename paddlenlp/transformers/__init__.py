"""Configurations, tokenizers and models, and the Auto classes that find them."""

from __future__ import annotations

from paddlenlp.utils.lazy import lazy_module

__getattr__, __dir__, __all__ = lazy_module(
    __name__,
    {
        "AutoConfig": "auto.configuration",
        "AutoModelForCausalLM": "auto.modeling",
        "AutoModelForCausalLMPipe": "auto.modeling",
        "AutoTokenizer": "auto.tokenizer",
        "PretrainedConfig": "configuration_utils",
        "PretrainedModel": "model_utils",
        "PretrainedTokenizer": "tokenizer_utils",
        "CosineAnnealingWithWarmupDecay": "optimization",
        "LinearAnnealingWithWarmupDecay": "optimization",
        "LlamaConfig": "llama.configuration",
        "LlamaModel": "llama.modeling",
        "LlamaForCausalLM": "llama.modeling",
        "LlamaForCausalLMPipe": "llama.modeling",
    },
)
