"""Model configurations: plain values under the names of config.json, read in every spelling and written back whole."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, Callable, ClassVar, Dict, List, Mapping, Union

from paddlenlp import __version__
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.files import parse_json

CONFIG_NAME = "config.json"
OURS_ONLY = ("paddlenlp_version", "fuse_attention_qkv", "fuse_attention_ffn")
SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
)


class PretrainedConfig:
    """Values that describe a model. They say nothing about how a run executes it.

    A family subclasses it and states data:

    - `model_type`: the name of the family in config.json;
    - `attribute_map`: other spelling -> the name used here; both read and write the same value;
    - `defaults`: values of this class, added to those of its parents. A default of None for a name in `derived` means
      that the value follows from others until it is set;
    - `derived`: name -> function of the configuration;
    - `hf_spelling`: name -> its spelling in a config.json of the Hugging Face format, where that differs;
    - `closes_smaller`: whether matrices that write to the residual stream start smaller than the others.

    Unknown keys are kept as attributes and saved back.

    Raises:
        UsageError: the values contradict each other; all contradictions are listed.
    """

    model_type: ClassVar[str] = ""
    attribute_map: ClassVar[Dict[str, str]] = {"num_classes": "num_labels", "torch_dtype": "dtype"}
    defaults: ClassVar[Dict[str, Any]] = {
        "architectures": None,
        "bos_token_id": None,
        "dtype": None,
        "eos_token_id": None,
        "pad_token_id": None,
        "tie_word_embeddings": True,
        "use_cache": False,
    }
    derived: ClassVar[Dict[str, Callable[[Any], Any]]] = {
        "num_key_value_heads": lambda config: config.num_attention_heads,
        "head_dim": lambda config: config.hidden_size // config.num_attention_heads,
    }

    hf_spelling: ClassVar[Dict[str, str]] = {"dtype": "torch_dtype"}
    closes_smaller: ClassVar[bool] = True

    def __init__(self, **values: Any) -> None:
        self._refuse_names_of_code(values)
        given = self.normalize({self._map(name): value for name, value in values.items()})
        for name, value in {**self.class_defaults(), **given}.items():
            setattr(self, name, copy.deepcopy(value))
        self.validate()

    @classmethod
    def class_defaults(cls) -> Dict[str, Any]:
        """The defaults of the class and of its parents, the nearest class winning."""
        return _merged(cls, "defaults")

    @classmethod
    def normalize(cls, values: Dict[str, Any]) -> Dict[str, Any]:
        """Bring other spellings among `values` to the names used here. A family adds its own by extending this."""
        values = {name: value for name, value in values.items() if name not in ("model_type", "paddlenlp_version")}
        if isinstance(values.get("dtype"), str):
            values["dtype"] = values["dtype"].replace("torch.", "").replace("paddle.", "")
        return values

    @classmethod
    def _refuse_names_of_code(cls, values: Mapping[str, Any]) -> None:
        """A file must not put values in the place of methods and tables of the class."""
        tables = ("attribute_map", "defaults", "derived", "hf_spelling")
        found = [name for name in values if callable(getattr(cls, name, None)) or name in tables or name[:2] == "__"]
        if found:
            raise UsageError(f"{', '.join(found)}: no names of values. Remove them from config.json.")

    @classmethod
    def _map(cls, name: str) -> str:
        return _merged(cls, "attribute_map").get(name, name)

    def __setattr__(self, name: str, value: Any) -> None:
        name = self._map(name)
        if value is None and name in _merged(type(self), "derived"):
            self.__dict__.pop(name, None)
        else:
            self.__dict__[name] = value

    def __getattr__(self, name: str) -> Any:
        """Called for what is not stored: another spelling, or a value that follows from others."""
        if not name.startswith("__"):
            mapped = self._map(name)
            if mapped != name:
                return getattr(self, mapped)
            rule = _merged(type(self), "derived").get(name)
            if rule is not None:
                return rule(self)
        raise AttributeError(f"{type(self).__name__} has no value {name!r}")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.to_dict() == other.to_dict()  # type: ignore[attr-defined]

    __hash__ = None  # type: ignore[assignment]

    def get(self, name: str, default: Any = None) -> Any:
        """The value under `name`, or `default` where there is none."""
        return getattr(self, name, default)

    def problems(self) -> List[str]:
        """What contradicts itself in the values, one sentence each. A family extends this."""
        stored = {name: self.__dict__[name] for name in SIZES if name in self.__dict__}
        found = [f"{k} must be a positive whole number, found {v!r}" for k, v in stored.items() if not _is_size(v)]
        return found or self._head_problems()

    def _head_problems(self) -> List[str]:
        heads = self.get("num_attention_heads")
        found: List[str] = []
        if heads is None:
            return found
        if self._map("head_dim") not in self.__dict__ and "hidden_size" in self.__dict__ and self.hidden_size % heads:
            sizes = f"hidden_size={self.hidden_size} is not a multiple of num_attention_heads={heads}"
            found.append(f"{sizes}, and no head_dim is given")
        if heads % self.num_key_value_heads:
            found.append(
                f"num_attention_heads={heads} is not a multiple of num_key_value_heads={self.num_key_value_heads}"
            )
        return found

    def validate(self) -> None:
        """Raise one UsageError that lists all contradictions, if there are any."""
        found = self.problems()
        if found:
            raise UsageError(f"{type(self).__name__} contradicts itself:\n" + "\n".join(f"  - {p}" for p in found))

    # -- reading ------------------------------------------------------------------------------------------------------

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], **overrides: Any) -> PretrainedConfig:
        """A configuration from a mapping as config.json holds it (legacy `init_args` included); `overrides` win."""
        return cls(**{**flatten_legacy(values), **overrides})

    @classmethod
    def from_json_file(cls, path: Union[str, Path], **overrides: Any) -> PretrainedConfig:
        """A configuration from one JSON file; errors name the file."""
        try:
            return cls.from_dict(read_json(path), **overrides)
        except UsageError as error:
            raise UsageError(f"{path}: {error}" if str(path) not in str(error) else str(error)) from None

    @classmethod
    def from_pretrained(cls, name_or_dir: Union[str, Path], **overrides: Any) -> PretrainedConfig:
        """A configuration from a folder, a built-in model name (no network), or a name on the hub."""
        from paddlenlp.transformers.known_models import read_config_dict

        values, where = read_config_dict(name_or_dir)
        try:
            return cls.from_dict(values, **overrides)
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from None

    # -- writing ------------------------------------------------------------------------------------------------------

    def to_dict(self) -> Dict[str, Any]:
        """All values, those that follow from others included, with `model_type` and `paddlenlp_version`."""
        values = copy.deepcopy(self.__dict__)
        for name in _merged(type(self), "derived"):
            if name in self.class_defaults():
                values[name] = getattr(self, name)
        return {**values, "model_type": self.model_type, "paddlenlp_version": __version__}

    def to_diff_dict(self) -> Dict[str, Any]:
        """The values of the family, and of the common ones those that are not at their default. This is saved."""
        common, own = PretrainedConfig.defaults, self.class_defaults()
        return {k: v for k, v in self.to_dict().items() if k not in common or not v == common[k] == own[k]}

    def to_json_string(self, use_diff: bool = True) -> str:
        """The values as JSON text (indent 2, sorted keys); only the differences unless `use_diff=False`."""
        return json.dumps(self.to_diff_dict() if use_diff else self.to_dict(), indent=2, sort_keys=True) + "\n"

    def to_hf_dict(self) -> Dict[str, Any]:
        """The values as a config.json of the Hugging Face format: in their spelling, nothing only we know."""
        names = _merged(type(self), "hf_spelling")
        values = self.to_diff_dict().items()
        return {names.get(name, name): value for name, value in values if name not in OURS_ONLY}

    def save_pretrained(self, save_directory: Union[str, Path], save_to_hf: bool = False) -> None:
        """Write `config.json` into the folder, atomically."""
        from paddlenlp.utils.files import atomic_write_text

        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_hf_dict(), indent=2, sort_keys=True) + "\n" if save_to_hf else self.to_json_string()
        atomic_write_text(folder / CONFIG_NAME, text)

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"


def read_json(path: Union[str, Path]) -> Dict[str, Any]:
    """The object in a JSON file; UsageError names the file and the line of what is wrong."""
    try:
        values = parse_json(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist; a model folder needs this file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None
    except json.JSONDecodeError as error:
        raise UsageError(f"{path}:{error.lineno}: not valid JSON: {error.msg} (column {error.colno})") from None
    except ValueError as error:
        raise UsageError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise UsageError(f"{path}: expected a JSON object, found {type(values).__name__}")
    return values


def flatten_legacy(values: Mapping[str, Any]) -> Dict[str, Any]:
    """Plain values of a legacy file: the mappings in `init_args` are merged, `init_class` names the architecture."""
    flat = {k: v for k, v in values.items() if k not in ("init_args", "init_class")}
    for part in values.get("init_args", ()):
        if isinstance(part, Mapping):
            flat = {**flatten_legacy(part), **flat}
    if "init_class" in values:
        flat["architectures"] = [values["init_class"]]
    return flat


def _merged(cls: type, table: str) -> Dict[str, Any]:
    """A class-level mapping together with those of the parents; an own entry wins."""
    merged: Dict[str, Any] = {}
    for parent in reversed(cls.__mro__):
        merged.update(parent.__dict__.get(table, {}))
    return merged


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
