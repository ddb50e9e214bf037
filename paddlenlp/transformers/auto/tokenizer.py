"""The tokenizer that belongs to a folder or a model's name."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Type, Union

from paddlenlp.utils.files import parse_json

from ..tokenizer_utils import PretrainedTokenizer, read_folder

_CLASSES: Dict[str, Type[PretrainedTokenizer]] = {}


class AutoTokenizer:
    """Finds the tokenizer by its files; `tokenizer_class` in tokenizer_config.json only chooses a registered class."""

    def __init__(self) -> None:
        raise TypeError("AutoTokenizer makes tokenizers by AutoTokenizer.from_pretrained(folder_or_name)")

    @staticmethod
    def from_pretrained(name_or_dir: Union[str, Path], **overrides: Any) -> PretrainedTokenizer:
        """The tokenizer of a folder or name; arguments and errors as `PretrainedTokenizer.from_pretrained`.

        `use_fast` is accepted and has no effect: the library is told from the files.
        """
        overrides.pop("use_fast", None)
        if not _CLASSES:
            return PretrainedTokenizer.from_pretrained(name_or_dir, **overrides)
        try:
            named = parse_json(read_folder(name_or_dir).get("tokenizer_config.json", b"{}")).get("tokenizer_class")
        except (ValueError, AttributeError):
            named = None  # the class itself reports the damaged file
        return _CLASSES.get(named, PretrainedTokenizer).from_pretrained(name_or_dir, **overrides)

    @staticmethod
    def register(tokenizer_class: str, made: Type[PretrainedTokenizer]) -> None:
        """Use class `made` where tokenizer_config.json says `tokenizer_class`."""
        _CLASSES[tokenizer_class] = made
