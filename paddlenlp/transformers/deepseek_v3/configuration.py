"""Configuration of DeepSeek-V3 and DeepSeek-R1."""

from __future__ import annotations

from paddlenlp.transformers.deepseek_v2.configuration import DeepseekV2Config


class DeepseekV3Config(DeepseekV2Config):
    """Sizes and options of a DeepSeek-V3: those of a DeepSeek-V2, but for the defaults, which are the 671B model's.

    `rope_interleave` says whether the features that rotary positions turn stand side by side.
    """

    model_type = "deepseek_v3"
    attribute_map = {"num_local_experts": "n_routed_experts", "num_mtp_layers": "num_nextn_predict_layers"}
    defaults = {
        "vocab_size": 129280,
        "hidden_size": 7168,
        "intermediate_size": 18432,
        "moe_intermediate_size": 2048,
        "num_hidden_layers": 61,
        "num_attention_heads": 128,
        "n_shared_experts": 1,
        "n_routed_experts": 256,
        "num_experts_per_tok": 8,
        "first_k_dense_replace": 3,
        "topk_method": "noaux_tc",
        "n_group": 8,
        "topk_group": 4,
        "norm_topk_prob": True,
        "routed_scaling_factor": 2.5,
        "scoring_func": "sigmoid",
        "aux_loss_alpha": 0.0001,
        "max_position_embeddings": 4096,
        "rope_interleave": True,
        "num_nextn_predict_layers": 1,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
