"""What a run was made with, written beside its checkpoints: every argument with its origin, versions, command."""

from __future__ import annotations

import platform
import sys
from dataclasses import fields
from importlib import metadata
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence, Tuple, Union

from paddlenlp.utils.files import atomic_write_json

from .argparser import PdArgumentParser

_HIDDEN = "(not recorded)"

#: Distributions whose versions decide what a run computes.
_DISTRIBUTIONS = (
    "numpy",
    "safetensors",
    "tokenizers",
    "sentencepiece",
    "tiktoken",
    "fast_dataindex",
    "huggingface_hub",
    "visualdl",
)


def versions() -> Dict[str, str]:
    """Versions of Python, this package, Paddle and what reads the data, without importing any of them."""
    import paddlenlp

    found = {"python": platform.python_version(), "platform": platform.platform(), "paddlenlp": paddlenlp.__version__}
    found["paddle"] = _version("paddlepaddle-gpu", "paddlepaddle")
    found.update({name: _version(name) for name in _DISTRIBUTIONS})
    return found


def _version(*names: str) -> str:
    for name in names:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "not installed"


def run_record(parser: PdArgumentParser, args: Sequence[Any], extra: Mapping[str, Any]) -> Dict[str, Any]:
    """The record as a dictionary.

    Args:
        parser: the parser that read the arguments: it knows the origins.
        args: the argument objects.
        extra: further entries, put beside "arguments", "versions" and "command".
    """
    arguments = {
        item.name: {
            "value": _value(item.metadata.get("secret", False), getattr(made, item.name)),
            "origin": parser.origins.get(item.name, "default"),
        }
        for made in args
        for item in fields(made)
    }
    secrets = [name for name, item in parser.fields.items() if item.metadata.get("secret")]
    return {"arguments": arguments, "versions": versions(), "command": _command(sys.argv, secrets), **extra}


def write_run_record(
    path: Union[str, Path], parser: PdArgumentParser, args: Sequence[Any], extra: Mapping[str, Any]
) -> None:
    """Writes `run_record` as JSON, atomically."""
    atomic_write_json(path, run_record(parser, args, extra))


def _value(secret: bool, value: Any) -> Any:
    if secret and value is not None:
        return _HIDDEN
    return str(value) if isinstance(value, str) else value


def _command(argv: Sequence[str], secrets: Sequence[str]) -> List[str]:
    """The command line with the values of secret arguments replaced."""
    out: List[str] = []
    hide = False
    for word in argv:
        name, equals, _ = word.partition("=")
        is_secret = name.lstrip("-") in secrets and word.startswith("--")
        out.append(f"{name}={_HIDDEN}" if is_secret and equals else _HIDDEN if hide else word)
        hide = is_secret and not equals
    return out


def arguments_of(args: Sequence[Any]) -> List[Tuple[str, Any]]:
    """(name, value) of every argument, secrets hidden, for printing."""
    return [
        (item.name, _value(item.metadata.get("secret", False), getattr(made, item.name)))
        for made in args
        for item in fields(made)
    ]
