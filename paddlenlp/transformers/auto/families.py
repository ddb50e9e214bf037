"""The families: one row each. From a row follow the classes of a family and where they are."""

from __future__ import annotations

import difflib
import importlib
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Type

from paddlenlp.transformers.configuration_utils import PretrainedConfig
from paddlenlp.utils.errors import UsageError


class Family(NamedTuple):
    """A row: `model_type` in config.json, package under paddlenlp.transformers, first part of the class names."""

    model_type: str
    module: str
    prefix: str

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


FAMILIES = [
    Family("llama", "llama", "Llama"),
]
REGISTERED: Dict[str, Type[PretrainedConfig]] = {}


def model_types() -> List[str]:
    """The values of `model_type` that are understood."""
    return sorted({family.model_type for family in FAMILIES} | set(REGISTERED))


def family_of_type(model_type: str) -> Optional[Family]:
    """The family with this `model_type`, or None."""
    return next((family for family in FAMILIES if family.model_type == model_type), None)


def family_of_architecture(architecture: str) -> Optional[Family]:
    """The family whose prefix starts the class name `architecture`, the longest such prefix; or None."""
    fitting = [family for family in FAMILIES if architecture.lower().startswith(family.prefix.lower())]
    return max(fitting, key=lambda family: len(family.prefix), default=None)


def unknown(what: str, found: Any, known: Iterable[str]) -> UsageError:
    """The error for a name that is not among `known`, with the nearest one suggested."""
    known = sorted(known)
    near = difflib.get_close_matches(str(found), known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return UsageError(f"{what} {found!r} is not known{hint} Known: {', '.join(known)}")
