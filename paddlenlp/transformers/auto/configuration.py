"""From a folder or a name to the configuration of the right family."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Type, Union

from paddlenlp.transformers.auto.families import (
    FAMILIES,
    REGISTERED,
    family_of_architecture,
    family_of_type,
    model_types,
    unknown,
)
from paddlenlp.transformers.configuration_utils import PretrainedConfig, flatten_legacy
from paddlenlp.transformers.known_models import read_config_dict
from paddlenlp.utils.errors import UsageError


class AutoConfig:
    """Finds the configuration class by `model_type`, else by `architectures`, else by a legacy `init_class`."""

    def __init__(self) -> None:
        raise TypeError("AutoConfig is not instantiated; use AutoConfig.from_pretrained(name_or_dir)")

    @classmethod
    def from_pretrained(cls, name_or_dir: Union[str, Path], **overrides: Any) -> PretrainedConfig:
        """The configuration of a folder, of a built-in model name (no network), or of a model on the hub.

        `overrides` replace values of the file.

        Raises:
            UsageError: nothing is found under that name, or its family is not known.
        """
        values, where = read_config_dict(name_or_dir)
        try:
            return cls.from_dict(values, **overrides)
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from None

    @classmethod
    def from_dict(cls, values: Dict[str, Any], **overrides: Any) -> PretrainedConfig:
        """The configuration for the values of a config.json.

        Raises:
            UsageError: its family is not known, or a value is of the wrong kind.
        """
        try:
            flat = flatten_legacy(values)
            return _config_class(flat).from_dict(flat, **overrides)
        except (AttributeError, KeyError, TypeError) as error:
            raise UsageError(f"the configuration holds a value of the wrong kind: {error}") from error

    @classmethod
    def register(cls, model_type: str, config_class: Type[PretrainedConfig], exist_ok: bool = False) -> None:
        """Make `model_type` lead to `config_class`, for a family outside this package.

        Raises:
            ValueError: the class has another `model_type`, or the type is taken and `exist_ok` is not set.
        """
        if config_class.model_type != model_type:
            raise ValueError(f"{config_class.__name__}.model_type is {config_class.model_type!r}, not {model_type!r}")
        if model_type in model_types() and not exist_ok:
            raise ValueError(f"model_type {model_type!r} is taken; pass exist_ok=True to replace it")
        REGISTERED[model_type] = config_class


def _config_class(values: Dict[str, Any]) -> Type[PretrainedConfig]:
    model_type = values.get("model_type")
    if model_type in REGISTERED:
        return REGISTERED[model_type]
    if model_type:
        family = family_of_type(model_type, values)
        if family is None:
            raise unknown("model_type", model_type, model_types())
        return family.config_class()
    names = values.get("architectures") or []
    if not names:
        raise UsageError("the configuration names neither a model_type nor architectures, so its family is not known")
    family = family_of_architecture(names[-1], values)
    if family is None:
        raise unknown("architecture", names[-1], (f"{family.prefix}ForCausalLM" for family in FAMILIES))
    return family.config_class()
