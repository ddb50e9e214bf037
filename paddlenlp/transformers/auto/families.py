"""The families: one row each. From a row follow the classes of a family and where they are."""

from __future__ import annotations

import difflib
import importlib
from typing import Any, Callable, Dict, Iterable, List, Mapping, NamedTuple, Optional, Type

from paddlenlp.transformers.configuration_utils import PretrainedConfig
from paddlenlp.utils.errors import UsageError


class Family(NamedTuple):
    """A row: `model_type` in config.json, package under paddlenlp.transformers, first part of the class names.

    Rows may share a model_type: the first whose `when` holds of the values of config.json is meant, and a row without
    `when` takes the rest.
    """

    model_type: str
    module: str
    prefix: str
    when: Optional[Callable[[Mapping[str, Any]], bool]] = None

    def config_class(self) -> Type[PretrainedConfig]:
        """The configuration class; importing it does not import Paddle."""
        return self._load("configuration", f"{self.prefix}Config")

    def model_class(self, suffix: str) -> type:
        """The class `<prefix><suffix>`, such as LlamaForCausalLM for "ForCausalLM"."""
        return self._load("modeling", f"{self.prefix}{suffix}")

    def _load(self, file: str, name: str) -> Any:
        module = importlib.import_module(f"paddlenlp.transformers.{self.module}.{file}")
        if not hasattr(module, name):
            raise UsageError(f"the family {self.model_type!r} has no class {name}")
        return getattr(module, name)


SECOND_CHATGLM = {"ffn_hidden_size", "kv_channels", "multi_query_attention", "padded_vocab_size"}
"""Released files of ChatGLM 1 to 3 all say "chatglm"; these values are in those of ChatGLM 2 and 3 only."""

FAMILIES = [
    Family("baichuan", "baichuan", "Baichuan"),
    Family("bloom", "bloom", "Bloom"),
    Family("chatglm", "chatglm_v2", "ChatGLMv2", when=lambda values: not SECOND_CHATGLM.isdisjoint(values)),
    Family("chatglm", "chatglm", "ChatGLM"),
    Family("chatglm_v2", "chatglm_v2", "ChatGLMv2"),
    Family("deepseek_v2", "deepseek_v2", "DeepseekV2"),
    Family("deepseek_v3", "deepseek_v3", "DeepseekV3"),
    Family("gemma", "gemma", "Gemma"),
    Family("glm_130b", "glm_130b", "GLM130B"),
    Family("gpt", "gpt", "GPT"),
    Family("gpt2", "gpt", "GPT"),
    Family("llama", "llama", "Llama"),
    Family("mistral", "mistral", "Mistral"),
    Family("mixtral", "mixtral", "Mixtral"),
    Family("opt", "opt", "OPT"),
    Family("qwen", "qwen", "QWen"),
    Family("qwen2", "qwen2", "Qwen2"),
    Family("qwen2_moe", "qwen2_moe", "Qwen2Moe"),
    Family("yuan", "yuan", "Yuan"),
]
REGISTERED: Dict[str, Type[PretrainedConfig]] = {}


def model_types() -> List[str]:
    """The values of `model_type` that are understood."""
    return sorted({family.model_type for family in FAMILIES} | set(REGISTERED))


def family_of_type(model_type: str, values: Mapping[str, Any]) -> Optional[Family]:
    """The family with this `model_type` that the `values` of a configuration belong to, or None."""
    rows = (family for family in FAMILIES if family.model_type == model_type)
    return next((family for family in rows if family.when is None or family.when(values)), None)


def family_of_architecture(architecture: str, values: Mapping[str, Any]) -> Optional[Family]:
    """The family whose prefix starts the class name `architecture`, the longest such prefix; or None.

    Of families that share a model_type, the one that `values` belong to.
    """
    fitting = [family for family in FAMILIES if architecture.lower().startswith(family.prefix.lower())]
    nearest = max(fitting, key=lambda family: (len(family.prefix), family.when is None), default=None)
    return None if nearest is None else family_of_type(nearest.model_type, values)


def unknown(what: str, found: Any, known: Iterable[str]) -> UsageError:
    """The error for a name that is not among `known`, with the nearest one suggested."""
    known = sorted(known)
    near = difflib.get_close_matches(str(found), known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return UsageError(f"{what} {found!r} is not known{hint} Known: {', '.join(known)}")
