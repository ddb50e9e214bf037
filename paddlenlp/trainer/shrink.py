"""A tiny model of the same kind: of a configuration the widths and depths are reduced, and all else stays."""

from __future__ import annotations

from typing import Any, Dict

SMALL: Dict[str, int] = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "n_head": 4,
    "head_dim": 8,
    "kv_channels": 8,
    "multi_query_group_num": 2,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "n_group": 2,
    "topk_group": 1,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer"), 2),
    **dict.fromkeys(("intermediate_size", "inner_hidden_size", "ffn_hidden_size"), 48),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 16),
    **dict.fromkeys(("n_routed_experts", "num_experts", "num_local_experts"), 8),
}
"""Sizes that 2 ranks of any axis can share; a configuration takes those that it has, where its own is larger."""

_LAYERS = ("num_hidden_layers", "num_layers", "n_layer")


def shrunk(values: Dict[str, Any], layers: int = 2) -> Dict[str, Any]:
    """The configuration of a tiny model of the same kind.

    Args:
        values: what config.json holds.
        layers: how many it is to have.
    """
    tiny = {name: min(value, SMALL[name]) if _shrinks(name, value) else value for name, value in values.items()}
    if "num_key_value_heads" in values and "num_attention_heads" in values:
        grouped = (values["num_key_value_heads"] or 0) not in (0, values["num_attention_heads"])
        tiny["num_key_value_heads"] = 2 if grouped else 4
    for name in _LAYERS:
        if isinstance(values.get(name), int):
            tiny[name] = layers
    return tiny


def _shrinks(name: str, value: Any) -> bool:
    return name in SMALL and isinstance(value, int) and not isinstance(value, bool)
