"""The parts that models are made of. A family's modeling.py imports what it needs from here and nothing else."""

from __future__ import annotations

from paddlenlp.utils.lazy import lazy_module

__getattr__, __dir__, __all__ = lazy_module(
    __name__,
    {
        "Attention": "attention",
        "Batch": "batch",
        "CausalLM": "decoder",
        "DecoderLayer": "decoder",
        "DecoderModel": "decoder",
        "Embedding": "embedding",
        "GatedMLP": "mlp",
        "KVCache": "cache",
        "LMHead": "head",
        "LayerNorm": "norm",
        "Linear": "embedding",
        "Precision": "precision",
        "RMSNorm": "norm",
        "RecomputePolicy": "recompute",
        "Rotary": "position",
        "configure_run": "run_options",
        "pipe": "decoder",
        "set_precision": "precision",
        "set_recompute": "recompute",
    },
)
