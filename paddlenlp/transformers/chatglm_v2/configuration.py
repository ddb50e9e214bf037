"""Configuration of ChatGLM2 and ChatGLM3."""

from __future__ import annotations

from typing import Any, Dict, List

from paddlenlp.transformers.configuration_utils import PretrainedConfig


class ChatGLMv2Config(PretrainedConfig):
    """Sizes and options of a ChatGLM2 or 3. The defaults are ChatGLM2-6B's, but for `multi_query_group_num` and
    `add_qkv_bias`, which are those of PaddleNLP.

    Released files say "chatglm" as model_type, as those of ChatGLM-6B do; they are told apart by their values.
    """

    model_type = "chatglm_v2"
    attribute_map = {
        "num_layers": "num_hidden_layers",
        "padded_vocab_size": "vocab_size",
        "seq_length": "max_sequence_length",
        "max_position_embeddings": "max_sequence_length",
        "intermediate_size": "ffn_hidden_size",
        "head_dim": "kv_channels",
    }
    defaults = {
        "vocab_size": 65024,
        "hidden_size": 4096,
        "ffn_hidden_size": 13696,
        "num_hidden_layers": 28,
        "num_attention_heads": 32,
        "kv_channels": 128,
        "multi_query_attention": True,
        "multi_query_group_num": 1,
        "max_sequence_length": 2048,
        "rope_ratio": 1.0,
        "rmsnorm": True,
        "layernorm_epsilon": 1e-5,
        "initializer_range": 0.02,
        "add_bias_linear": False,
        "add_qkv_bias": False,
        "apply_residual_connection_post_layernorm": False,
        "post_layer_norm": True,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "use_cache": True,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "tie_word_embeddings": False,
    }
    derived = {
        "kv_channels": lambda config: config.hidden_size // config.num_attention_heads,
        "num_key_value_heads": lambda config: (
            config.multi_query_group_num if config.multi_query_attention else config.num_attention_heads
        ),
    }

    def problems(self) -> List[str]:
        found = super().problems()
        if not self.post_layer_norm:
            found.append("post_layer_norm=False: models without a norm after the last layer are not built")
        if self.get("pre_seq_len") is not None:
            found.append(f"pre_seq_len={self.pre_seq_len}: prefixes of prompt tuning are not built")
        if not found and self.kv_channels % 4:
            found.append(f"kv_channels={self.kv_channels} must be a multiple of 4: half of a head turns, in pairs")
        return found

    def to_hf_dict(self) -> Dict[str, Any]:
        values = super().to_hf_dict()
        names = {"num_hidden_layers": "num_layers", "max_sequence_length": "seq_length"}
        values = {names.get(name, name): value for name, value in values.items()}
        values["padded_vocab_size"] = self.vocab_size
        return {**values, "model_type": "chatglm", "architectures": ["ChatGLMModel"]}
