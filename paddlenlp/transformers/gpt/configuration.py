"""Configuration of GPT-2 and GPT-3."""

from __future__ import annotations

from typing import Any, Dict, List

from paddlenlp.transformers.configuration_utils import PretrainedConfig


class GPTConfig(PretrainedConfig):
    """Sizes and options of a GPT, in the spelling of PaddleNLP's "gpt" or of Hugging Face's "gpt2", as which it is
    exported. The defaults are those of PaddleNLP.

    `intermediate_size` is 4 hidden_size, and `embedding_dropout_prob` is `hidden_dropout_prob`, until they are set.
    PaddleNLP's `hidden_activation` "gelu" is the tanh approximation, "gelu_new".
    """

    model_type = "gpt"
    attribute_map = {
        "n_positions": "max_position_embeddings",
        "n_embd": "hidden_size",
        "n_layer": "num_hidden_layers",
        "n_head": "num_attention_heads",
        "n_inner": "intermediate_size",
        "activation_function": "hidden_act",
        "layer_norm_epsilon": "layer_norm_eps",
        "embd_pdrop": "embedding_dropout_prob",
        "resid_pdrop": "hidden_dropout_prob",
        "attn_pdrop": "attention_probs_dropout_prob",
    }
    hf_spelling = {
        "max_position_embeddings": "n_positions",
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "intermediate_size": "n_inner",
        "hidden_act": "activation_function",
        "layer_norm_eps": "layer_norm_epsilon",
        "embedding_dropout_prob": "embd_pdrop",
        "hidden_dropout_prob": "resid_pdrop",
        "attention_probs_dropout_prob": "attn_pdrop",
    }
    defaults = {
        "vocab_size": 50304,
        "hidden_size": 768,
        "intermediate_size": None,
        "max_position_embeddings": 512,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "hidden_act": "gelu_new",
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-5,
        "embedding_dropout_prob": None,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "pad_token_id": 0,
        "bos_token_id": 0,
        "eos_token_id": 7,
    }
    derived = {
        "intermediate_size": lambda config: 4 * config.hidden_size,
        "embedding_dropout_prob": lambda config: config.hidden_dropout_prob,
    }

    @classmethod
    def normalize(cls, values: Dict[str, Any]) -> Dict[str, Any]:
        values = super().normalize(values)
        activation = values.pop("hidden_activation", None)
        if activation is not None:
            values.setdefault("hidden_act", "gelu_new" if activation == "gelu" else activation)
        return values

    def problems(self) -> List[str]:
        found = super().problems()
        built = {
            "normalize_before": True,
            "scale_attn_weights": True,
            "scale_attn_by_inverse_layer_idx": False,
            "add_cross_attention": False,
            "tie_word_embeddings": True,
        }
        odd = [(name, self.get(name, only), only) for name, only in built.items() if self.get(name, only) != only]
        return found + [f"{name}={value}: only models with {name}={only} are built" for name, value, only in odd]

    def to_hf_dict(self) -> Dict[str, Any]:
        return {**super().to_hf_dict(), "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}
