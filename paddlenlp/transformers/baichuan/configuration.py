"""Configuration of Baichuan and Baichuan 2."""

from __future__ import annotations

from typing import Any, Dict, List

from paddlenlp.transformers.configuration_utils import PretrainedConfig

BAICHUAN2_VOCABULARY = 125696


class BaichuanConfig(PretrainedConfig):
    """Sizes and options of a Baichuan. The defaults are those of Baichuan-7B, but for `alibi`.

    Released files of all models say "baichuan". Until they are set, `alibi` (linear biases, as in the 13B models, in
    place of rotary positions) follows from there being no `max_position_embeddings`, and `normalised_head` (Baichuan 2)
    from there being a `z_loss_weight`, or from the size of the vocabulary.

    `counts_positions` tells those who number tokens that with `alibi` only distances count.
    """

    model_type = "baichuan"
    defaults = {
        "vocab_size": 64000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "max_position_embeddings": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "rms_norm_eps": 1e-6,
        "alibi": False,
        "normalised_head": False,
        "fuse_attention_ffn": False,
        "use_cache": True,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": False,
    }

    derived = {"counts_positions": lambda config: not config.alibi}

    @classmethod
    def normalize(cls, values: Dict[str, Any]) -> Dict[str, Any]:
        values = super().normalize(values)
        values.setdefault("alibi", "max_position_embeddings" not in values)
        values.setdefault("max_position_embeddings", values.get("model_max_length", 4096))
        second = "z_loss_weight" in values or values.get("vocab_size") == BAICHUAN2_VOCABULARY
        values.setdefault("normalised_head", second)
        if values.get("architectures"):
            values["architectures"] = [name.replace("BaiChuan", "Baichuan") for name in values["architectures"]]
        return values

    def problems(self) -> List[str]:
        found = super().problems()
        if self.get("z_loss_weight", 0):
            found.append(f"z_loss_weight={self.z_loss_weight}: a loss of that kind is not built")
        if not found and not self.alibi and self.head_dim % 2:
            found.append(f"head_dim={self.head_dim} must be even: rotary positions turn pairs of components")
        return found

    def to_hf_dict(self) -> Dict[str, Any]:
        values = super().to_hf_dict()
        if values.pop("alibi"):
            values.setdefault("model_max_length", values.pop("max_position_embeddings"))
            values.pop("max_position_embeddings", None)
        if values.pop("normalised_head"):
            values.setdefault("z_loss_weight", 0)
        return values
