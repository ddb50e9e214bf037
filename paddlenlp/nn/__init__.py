"""The parts that models are made of. A family's modeling.py imports what it needs from here and nothing else."""

from __future__ import annotations

from paddlenlp.utils.lazy import lazy_module

__getattr__, __dir__, __all__ = lazy_module(
    __name__,
    {
        "Ahead": "ahead",
        "Attention": "attention",
        "Batch": "batch",
        "CausalLM": "decoder",
        "DecoderLayer": "decoder",
        "DecoderModel": "decoder",
        "Dropout": "hidden",
        "Embedding": "embedding",
        "FilteredAttention": "local_filter",
        "GatedMLP": "mlp",
        "KVCache": "cache",
        "LMHead": "head",
        "LatentAttention": "latent_attention",
        "LearnedPositions": "learned",
        "LayerNorm": "norm",
        "Linear": "embedding",
        "LogScaled": "long_positions",
        "MLP": "mlp",
        "MoE": "moe",
        "PreNormLayer": "decoder",
        "Precision": "precision",
        "PredictsAhead": "ahead",
        "RMSNorm": "norm",
        "RecomputePolicy": "recompute",
        "Rotary": "position",
        "Rotary2D": "position",
        "Router": "moe_router",
        "TrainOrEval": "long_positions",
        "alibi_slopes": "alibi",
        "configure_run": "run_options",
        "context_lengths": "infilling",
        "dropout": "hidden",
        "infilling_mask": "infilling",
        "infilling_positions": "infilling",
        "pipe": "decoder",
        "set_capacity": "moe",
        "set_precision": "precision",
        "set_recompute": "recompute",
    },
)
