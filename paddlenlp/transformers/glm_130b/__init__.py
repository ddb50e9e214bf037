"""GLM-130B."""

from __future__ import annotations

from paddlenlp.utils.lazy import lazy_module

__getattr__, __dir__, __all__ = lazy_module(
    __name__,
    {
        "GLM130BConfig": "configuration",
        "GLM130BBlock": "modeling",
        "GLM130BModel": "modeling",
        "GLM130BForCausalLM": "modeling",
        "GLM130BForCausalLMPipe": "modeling",
    },
)
