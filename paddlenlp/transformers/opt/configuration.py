"""Configuration of OPT."""

from __future__ import annotations

from typing import Any, Dict, List

from paddlenlp.transformers.configuration_utils import PretrainedConfig


class OPTConfig(PretrainedConfig):
    """Sizes and options of an OPT, in the spelling of PaddleNLP or of Hugging Face. The defaults are those of OPT-1.3B.

    `word_embed_proj_dim` is the width of the embedding, and hidden_size until it is set. `normalize_before` tells the
    pre-norm models from OPT-350m, which has no closing norm either.
    """

    model_type = "opt"
    attribute_map = {
        "ffn_dim": "intermediate_size",
        "activation_function": "hidden_act",
        "do_layer_norm_before": "normalize_before",
        "init_std": "initializer_range",
        "dropout": "hidden_dropout_prob",
        "attention_dropout": "attention_probs_dropout_prob",
    }
    hf_spelling = {
        "intermediate_size": "ffn_dim",
        "hidden_act": "activation_function",
        "normalize_before": "do_layer_norm_before",
        "initializer_range": "init_std",
        "hidden_dropout_prob": "dropout",
        "attention_probs_dropout_prob": "attention_dropout",
    }
    defaults = {
        "vocab_size": 50272,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "word_embed_proj_dim": None,
        "max_position_embeddings": 2048,
        "num_hidden_layers": 24,
        "num_attention_heads": 32,
        "hidden_act": "relu",
        "normalize_before": True,
        "enable_bias": True,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-5,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.0,
        "pad_token_id": 1,
        "bos_token_id": 2,
        "eos_token_id": 2,
    }
    derived = {"word_embed_proj_dim": lambda config: config.hidden_size}

    @property
    def closes_with_norm(self) -> bool:
        """Whether a norm follows the last layer."""
        return self.normalize_before and not self.get("_remove_final_layer_norm", False)

    def problems(self) -> List[str]:
        built = {"layer_norm_elementwise_affine": True, "layerdrop": 0.0, "tie_word_embeddings": True}
        odd = [(name, self.get(name, only), only) for name, only in built.items() if self.get(name, only) != only]
        found = [f"{name}={value}: only models with {name}={only} are built" for name, value, only in odd]
        return super().problems() + found

    def to_hf_dict(self) -> Dict[str, Any]:
        return {**super().to_hf_dict(), "architectures": ["OPTForCausalLM"]}
