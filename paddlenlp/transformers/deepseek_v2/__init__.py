"""DeepSeek-V2, DeepSeek-V2-Lite and DeepSeek-Coder-V2."""

from __future__ import annotations

from paddlenlp.utils.lazy import lazy_module

__getattr__, __dir__, __all__ = lazy_module(
    __name__,
    {
        "DeepseekV2Config": "configuration",
        "DeepseekV2DecoderLayer": "modeling",
        "DeepseekV2Model": "modeling",
        "DeepseekV2ForCausalLM": "modeling",
        "DeepseekV2ForCausalLMPipe": "modeling",
    },
)
