"""Configuration of Mixtral."""

from __future__ import annotations

from typing import Any, Dict, List

from paddlenlp.transformers.configuration_utils import PretrainedConfig
from paddlenlp.transformers.rope_options import hf_rope, normalize_rope, rope_problems


class MixtralConfig(PretrainedConfig):
    """Sizes and options of a Mixtral. The defaults are Mixtral-8x7B's, but for `rope_scaling` as LlamaConfig reads it.

    `output_router_logits` turns the balance loss on, of weight `router_aux_loss_coef`.
    """

    model_type = "mixtral"
    attribute_map = {"num_experts": "num_local_experts"}
    defaults = {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "max_position_embeddings": 131072,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": None,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1000000.0,
        "rope_scaling": None,
        "sliding_window": None,
        "attention_dropout": 0.0,
        "num_experts_per_tok": 2,
        "num_local_experts": 8,
        "output_router_logits": False,
        "router_aux_loss_coef": 0.001,
        "fuse_attention_qkv": False,
        "use_cache": True,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": False,
    }

    @classmethod
    def normalize(cls, values: Dict[str, Any]) -> Dict[str, Any]:
        return super().normalize(normalize_rope(values))

    def to_hf_dict(self) -> Dict[str, Any]:
        return hf_rope(super().to_hf_dict(), self.head_dim)

    @property
    def balance(self) -> float:
        """Coefficient of one layer's balance loss.

        Hugging Face transformers takes the loss of all layers together, and its f sums to the number of choices.
        """
        coefficient = self.router_aux_loss_coef if self.output_router_logits else 0.0
        return coefficient * self.num_experts_per_tok / self.num_hidden_layers

    def problems(self) -> List[str]:
        found = super().problems() + rope_problems(self.rope_scaling)
        if not found and self.head_dim % 2:
            found.append(f"head_dim={self.head_dim} must be even: rotary positions turn pairs of components")
        if not 0 < self.num_experts_per_tok <= self.num_local_experts:
            choices = f"num_experts_per_tok={self.num_experts_per_tok}"
            found.append(f"{choices} is not between 1 and num_local_experts={self.num_local_experts}")
        return found
