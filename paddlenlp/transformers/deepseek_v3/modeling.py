"""DeepSeek-V3 and R1 (arXiv:2412.19437): a DeepSeek-V2 whose experts are scored by sigmoids and chosen with the help of
a bias that evens out their load."""

from __future__ import annotations

from paddlenlp.nn import pipe
from paddlenlp.transformers.deepseek_v2.modeling import DeepseekV2ForCausalLM, DeepseekV2Model

from .configuration import DeepseekV3Config


class DeepseekV3Model(DeepseekV2Model):
    """Embedding, decoder layers and closing norm."""

    config_class = DeepseekV3Config


class DeepseekV3ForCausalLM(DeepseekV2ForCausalLM):
    """DeepSeek-V3 with a head over the vocabulary."""

    config_class = DeepseekV3Config
    model_class = DeepseekV3Model
    base_model_prefix = "deepseek_v3"
    hf_names = [(r"^deepseek_v3\.", "model.")]


DeepseekV3ForCausalLMPipe = pipe(DeepseekV3ForCausalLM)
