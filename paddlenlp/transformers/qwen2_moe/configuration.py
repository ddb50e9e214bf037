"""Configuration of Qwen1.5-MoE and Qwen2-MoE."""

from __future__ import annotations

from typing import Any, Dict, List, Optional

from paddlenlp.transformers.configuration_utils import PretrainedConfig
from paddlenlp.transformers.rope_options import hf_rope, normalize_rope, rope_problems


class Qwen2MoeConfig(PretrainedConfig):
    """Sizes and options of a Qwen2-MoE. The defaults are Qwen1.5-MoE-A2.7B's, but for `rope_scaling` as LlamaConfig
    reads it.

    Every `decoder_sparse_step`-th layer has experts, but those in `mlp_only_layers`. `output_router_logits` turns the
    balance loss on, of weight `router_aux_loss_coef`. With `use_sliding_window` the layers that `layer_types` calls
    "sliding_attention" see only the last `sliding_window` tokens; without such a list these are every second of the
    first `max_window_layers`, as in Hugging Face transformers.
    """

    model_type = "qwen2_moe"
    defaults = {
        "vocab_size": 151936,
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "head_dim": None,
        "hidden_act": "silu",
        "max_position_embeddings": 8192,
        "initializer_range": 0.02,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "rope_scaling": None,
        "qkv_bias": True,
        "use_sliding_window": False,
        "sliding_window": 32768,
        "max_window_layers": 28,
        "attention_dropout": 0.0,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
        "num_experts": 60,
        "num_experts_per_tok": 4,
        "norm_topk_prob": False,
        "output_router_logits": False,
        "router_aux_loss_coef": 0.001,
        "fuse_attention_qkv": False,
        "fuse_attention_ffn": False,
        "use_cache": True,
        "pad_token_id": 0,
        "bos_token_id": 151643,
        "eos_token_id": 151643,
        "tie_word_embeddings": False,
    }

    @classmethod
    def normalize(cls, values: Dict[str, Any]) -> Dict[str, Any]:
        values = super().normalize(normalize_rope(values))
        if values.get("mlp_only_layers", ()) is None:
            values["mlp_only_layers"] = []
        return values

    def to_hf_dict(self) -> Dict[str, Any]:
        return hf_rope(super().to_hf_dict(), self.head_dim)

    def is_sparse(self, index: int) -> bool:
        """Whether decoder layer `index` has experts."""
        return index not in self.mlp_only_layers and (index + 1) % self.decoder_sparse_step == 0

    def window(self, index: int) -> Optional[int]:
        """How many tokens decoder layer `index` sees; None for all."""
        kinds = self.get("layer_types")
        slides = kinds[index] == "sliding_attention" if kinds else index < self.max_window_layers and index % 2 == 0
        return self.sliding_window if self.use_sliding_window and slides else None

    @property
    def balance(self) -> float:
        """Coefficient of one layer's balance loss.

        Hugging Face transformers takes the loss of all layers together, and its f sums to the number of choices.
        """
        coefficient = self.router_aux_loss_coef if self.output_router_logits else 0.0
        sparse = sum(map(self.is_sparse, range(self.num_hidden_layers)))
        return coefficient * self.num_experts_per_tok / max(sparse, 1)

    def problems(self) -> List[str]:
        found = super().problems() + rope_problems(self.rope_scaling)
        if not found and self.head_dim % 2:
            found.append(f"head_dim={self.head_dim} must be even: rotary positions turn pairs of components")
        if not 0 < self.num_experts_per_tok <= self.num_experts:
            choices = f"num_experts_per_tok={self.num_experts_per_tok}"
            found.append(f"{choices} is not between 1 and num_experts={self.num_experts}")
        if not (isinstance(self.decoder_sparse_step, int) and self.decoder_sparse_step > 0):
            found.append(f"decoder_sparse_step={self.decoder_sparse_step!r} must be a positive whole number")
        if self.use_sliding_window and not (isinstance(self.sliding_window, int) and self.sliding_window > 0):
            found.append(f"sliding_window={self.sliding_window!r} must be a number of tokens with use_sliding_window")
        kinds = self.get("layer_types")
        if self.use_sliding_window and kinds and len(kinds) < self.num_hidden_layers:
            found.append(f"layer_types names {len(kinds)} of num_hidden_layers={self.num_hidden_layers} layers")
        return found
