"""Configuration of BLOOM and BLOOMZ."""

from __future__ import annotations

from typing import List

from paddlenlp.transformers.configuration_utils import PretrainedConfig


class BloomConfig(PretrainedConfig):
    """Sizes and options of a BLOOM. Positions have no limit; `seq_length` says what it was trained with.

    `counts_positions` tells those who number tokens that only distances count."""

    model_type = "bloom"
    attribute_map = {
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "n_embed": "hidden_size",
        "max_position_embeddings": "seq_length",
    }
    defaults = {
        "vocab_size": 250880,
        "hidden_size": 64,
        "n_layer": 2,
        "n_head": 8,
        "seq_length": 2048,
        "layer_norm_epsilon": 1e-5,
        "initializer_range": 0.02,
        "apply_residual_connection_post_layernorm": False,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 3,
        "tie_word_embeddings": True,
    }
    derived = {
        "intermediate_size": lambda config: 4 * config.hidden_size,
        "counts_positions": lambda config: False,
    }

    def problems(self) -> List[str]:
        found = super().problems()
        if self.hidden_size % self.n_head:
            found.append(f"hidden_size={self.hidden_size} is not a multiple of n_head={self.n_head}")
        return found
