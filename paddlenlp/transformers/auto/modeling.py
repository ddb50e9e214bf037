"""From a configuration, a folder or a name to a model of the right family."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Optional, Type, Union

from paddlenlp.transformers.auto.configuration import AutoConfig
from paddlenlp.transformers.auto.families import FAMILIES, Family, family_of_architecture, family_of_type, unknown
from paddlenlp.transformers.configuration_utils import PretrainedConfig
from paddlenlp.transformers.hub import resolve_folder
from paddlenlp.transformers.model_utils import PretrainedModel


class AutoModelForCausalLM:
    """Makes the `<Family>ForCausalLM` that a configuration asks for."""

    suffix: ClassVar[str] = "ForCausalLM"

    def __init__(self) -> None:
        name = type(self).__name__
        raise TypeError(f"{name} is not instantiated; use {name}.from_config or {name}.from_pretrained")

    @classmethod
    def from_config(cls, config: PretrainedConfig, dtype: Optional[str] = "float32") -> PretrainedModel:
        """A freshly initialised model whose parameters are created directly in `dtype`."""
        return cls.model_class(config).from_config(config, dtype=dtype)

    @classmethod
    def from_pretrained(
        cls,
        name_or_dir: Union[str, Path],
        config: Optional[PretrainedConfig] = None,
        dtype: Optional[str] = None,
        **overrides: Any,
    ) -> PretrainedModel:
        """A model with the weights of a folder or of a model on the hub; see `PretrainedModel.from_pretrained`."""
        if config is not None and overrides:
            raise TypeError(f"give either config or configuration values ({', '.join(overrides)}), not both")
        folder = resolve_folder(name_or_dir)
        config = AutoConfig.from_pretrained(folder, **overrides) if config is None else config
        return cls.model_class(config).from_pretrained(folder, config=config, dtype=dtype)

    @classmethod
    def model_class(cls, config: PretrainedConfig) -> Type[PretrainedModel]:
        """The class for a configuration: by its `architectures`, else by its `model_type`.

        Raises:
            UsageError: no family fits.
        """
        architecture, values = (config.architectures or [""])[-1], config.to_dict()
        family: Optional[Family] = family_of_architecture(architecture, values)
        family = family or family_of_type(config.model_type, values)
        if family is None:
            known = (f"{family.prefix}{cls.suffix}" for family in FAMILIES)
            raise unknown("architecture", architecture or config.model_type, known)
        return family.model_class(cls.suffix)


class AutoModelForCausalLMPipe(AutoModelForCausalLM):
    """Makes the `<Family>ForCausalLMPipe`: the same model, of which a pipeline rank holds its stages."""

    suffix: ClassVar[str] = "ForCausalLMPipe"
