"""DeepSeek-V3 and DeepSeek-R1."""

from __future__ import annotations

from paddlenlp.utils.lazy import lazy_module

__getattr__, __dir__, __all__ = lazy_module(
    __name__,
    {
        "DeepseekV3Config": "configuration",
        "DeepseekV3Model": "modeling",
        "DeepseekV3ForCausalLM": "modeling",
        "DeepseekV3ForCausalLMPipe": "modeling",
    },
)
