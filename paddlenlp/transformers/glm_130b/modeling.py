"""GLM-130B (arXiv:2210.02414): a GLM with DeepNorm, as ChatGLM-6B, but with GeGLU and one position for each token."""

from __future__ import annotations

from paddlenlp.nn import CausalLM, GatedMLP, pipe
from paddlenlp.transformers.chatglm.configuration import ChatGLMConfig
from paddlenlp.transformers.chatglm.modeling import ChatGLMBlock, ChatGLMModel

from .configuration import GLM130BConfig


class GLM130BBlock(ChatGLMBlock):
    """As its parent, with GeGLU."""

    @classmethod
    def build_mlp(cls, config: ChatGLMConfig) -> GatedMLP:
        names = ("gate_proj", "up_proj", "dense_4h_to_h")
        return GatedMLP(config, "gelu", bias=True, fused=True, fused_name="dense_h_to_4h", names=names, up_first=True)


class GLM130BModel(ChatGLMModel):
    """Embedding, decoder layers and closing norm."""

    config_class = GLM130BConfig
    layer_class = GLM130BBlock
    names = {"embed": "word_embeddings", "layers": "layers", "norm": "final_layernorm"}


class GLM130BForCausalLM(CausalLM):
    """GLM-130B with the embedding's matrix as head."""

    config_class = GLM130BConfig
    model_class = GLM130BModel
    base_model_prefix = "glm_130b"
    hf_names = [(r"^glm_130b\.", "transformer.")]
    hf_fused = ("query_key_value", "dense_h_to_4h")


GLM130BForCausalLMPipe = pipe(GLM130BForCausalLM)
