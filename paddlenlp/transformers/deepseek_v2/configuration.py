"""Configuration of DeepSeek-V2 and DeepSeek-V2-Lite."""

from __future__ import annotations

from typing import Any, Dict, List

from paddlenlp.nn.frequencies import score_factor
from paddlenlp.transformers.configuration_utils import PretrainedConfig
from paddlenlp.transformers.rope_options import hf_rope, normalize_rope, rope_problems

METHODS = ("greedy", "group_limited_greedy", "noaux_tc")


class DeepseekV2Config(PretrainedConfig):
    """Sizes and options of a DeepSeek-V2.

    `n_routed_experts` None makes a model without experts. `topk_method` is "greedy" (the spelling "gready" of old files
    is read too), "group_limited_greedy", or "noaux_tc" (DeepSeek-V3's, with a correcting bias). The bias of an expert
    changes by `bias_update_speed` in each training step: up where it worked on fewer tokens than the mean, else down.

    Released files may hold the weights of `num_nextn_predict_layers` layers behind the last one, that predict tokens
    further on. They are left unread, unless `num_nextn_predict_lambda` is above 0: then one such layer is part of the
    model in training, and its loss has that weight.
    """

    model_type = "deepseek_v2"
    attribute_map = {"num_experts": "n_routed_experts"}
    closes_smaller = False  # all parameters start alike: arXiv:2405.04434, section 3.1.2
    defaults = {
        "vocab_size": 102400,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "moe_intermediate_size": 1407,
        "num_hidden_layers": 30,
        "num_attention_heads": 32,
        "num_key_value_heads": None,
        "q_lora_rank": 1536,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "n_shared_experts": None,
        "n_routed_experts": None,
        "num_experts_per_tok": None,
        "moe_layer_freq": 1,
        "first_k_dense_replace": 0,
        "topk_method": "greedy",
        "n_group": None,
        "topk_group": None,
        "norm_topk_prob": False,
        "routed_scaling_factor": 1.0,
        "scoring_func": "softmax",
        "bias_update_speed": 0.0,
        "aux_loss_alpha": 0.001,
        "seq_aux": True,
        "hidden_act": "silu",
        "max_position_embeddings": 2048,
        "initializer_range": 0.02,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "num_nextn_predict_layers": 0,
        "num_nextn_predict_lambda": 0.0,
        "fuse_attention_ffn": False,
        "use_cache": True,
        "bos_token_id": 100000,
        "eos_token_id": 100001,
        "tie_word_embeddings": False,
    }

    @classmethod
    def normalize(cls, values: Dict[str, Any]) -> Dict[str, Any]:
        values = super().normalize(normalize_rope(values))
        if values.get("topk_method") == "gready":
            values["topk_method"] = "greedy"
        return values

    def to_hf_dict(self) -> Dict[str, Any]:
        return hf_rope(super().to_hf_dict(), self.qk_rope_head_dim)

    def is_sparse(self, index: int) -> bool:
        """Whether decoder layer `index` has experts."""
        late = index >= self.first_k_dense_replace
        return self.n_routed_experts is not None and late and index % self.moe_layer_freq == 0

    @property
    def score_scale(self) -> float:
        """Factor of q k' in attention."""
        width = self.qk_nope_head_dim + self.qk_rope_head_dim
        return width**-0.5 * score_factor(self.rope_scaling, self.max_position_embeddings)

    def problems(self) -> List[str]:
        found = super().problems() + rope_problems(self.rope_scaling)
        if self.qk_rope_head_dim % 2:
            found.append(f"qk_rope_head_dim={self.qk_rope_head_dim} must be even: rotary positions turn pairs")
        if self.num_key_value_heads != self.num_attention_heads:
            heads = f"num_attention_heads={self.num_attention_heads}"
            found.append(
                f"num_key_value_heads={self.num_key_value_heads} is not {heads}: latent attention makes a key for each "
                "query head"
            )
        if self.num_nextn_predict_lambda and self.num_nextn_predict_layers != 1:
            found.append(
                f"num_nextn_predict_lambda={self.num_nextn_predict_lambda} needs num_nextn_predict_layers=1, found "
                f"{self.num_nextn_predict_layers}: layers for tokens still further on are not trained"
            )
        return found if self.n_routed_experts is None else found + self._expert_problems()

    def _expert_problems(self) -> List[str]:
        found = []
        if self.topk_method not in METHODS:
            found.append(f"topk_method={self.topk_method!r} must be one of {', '.join(METHODS)}")
        if not self.num_experts_per_tok:
            found.append(f"n_routed_experts={self.n_routed_experts} needs num_experts_per_tok")
        if self.topk_method != "greedy" and not (self.n_group and self.topk_group):
            found.append(f"topk_method={self.topk_method!r} needs n_group and topk_group")
        if self.aux_loss_alpha and not self.seq_aux:
            found.append("seq_aux=false: the balance loss is taken for each sequence; set it, or aux_loss_alpha=0")
        return found
