"""From what a user wrote, in JSON or on the command line, to a value of the declared type."""

from __future__ import annotations

import json
import math
from dataclasses import Field
from enum import Enum
from typing import Any, List, Optional, Tuple, Union, get_args, get_origin

from .suggest import did_you_mean

_WORDS = {"true": True, "t": True, "yes": True, "y": True, "1": True}
_WORDS.update({"false": False, "f": False, "no": False, "n": False, "0": False})


class WrongValue(ValueError):
    """The value does not fit; the message goes after the argument's name ("must be an integer, found ...")."""


def unwrap_optional(kind: Any) -> Tuple[Any, bool]:
    """(T, whether None is allowed) of T or Optional[T]."""
    if get_origin(kind) is Union:
        inner = [item for item in get_args(kind) if item is not type(None)]
        return inner[0], True
    return kind, False


def is_bool(kind: Any) -> bool:
    """Whether T or Optional[T] is bool."""
    return unwrap_optional(kind)[0] is bool


def is_switch(kind: Any, item: Field) -> bool:
    """Whether the argument's name alone, without a value, means true."""
    return is_bool(kind) or "true" in (item.metadata.get("choices") or ())


def type_name(kind: Any) -> str:
    """The type as documentation shows it: int, text, list of int ..."""
    kind, optional = unwrap_optional(kind)
    if get_origin(kind) is list:
        name = f"list of {type_name(get_args(kind)[0])}"
    else:
        name = "word" if isinstance(kind, type) and issubclass(kind, Enum) else kind.__name__
    return name + (" or null" if optional else "")


def from_json(kind: Any, value: Any, item: Field) -> Any:
    """`value`, as read from JSON, as a `kind`; null is the caller's affair.

    Raises:
        WrongValue: it does not fit.
    """
    kind, _ = unwrap_optional(kind)
    if get_origin(kind) is list:
        (inner,) = get_args(kind)
        if isinstance(value, list):
            return [from_json(inner, element, item) for element in value]
        return [from_json(inner, value, item)]
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(_choice(value, [str(member.value) for member in kind]))
    if kind is bool:
        return _bool(value)
    if kind is str:
        value = _spelled(value) if is_switch(kind, item) else _switched(value, item.metadata.get("switch", ""))
        return _text(value, item.metadata.get("choices"))
    return _integer(value) if kind is int else _number(value)


def from_words(kind: Any, words: List[str], item: Field) -> Any:
    """The words after `--name` as a `kind`.

    Raises:
        WrongValue: they do not fit.
    """
    inner, optional = unwrap_optional(kind)
    if optional and words in (["null"], ["None"]):
        return None
    if get_origin(inner) is list:
        return from_json(kind, _list_of_words(inner, words), item)
    if len(words) > 1:
        raise WrongValue(f"takes one value, found {len(words)}: {' '.join(words)}; put it in quotes if it has blanks")
    return from_json(kind, _plain(inner, words[0]), item)


def _list_of_words(kind: Any, words: List[str]) -> Any:
    """What JSON would have held: `1 2`, `[1, 2]`, `1,2`; for lists of lists `[1, 2] [3, 4]`, `[[1, 2]]` or `1 2`."""
    (inner,) = get_args(kind)
    joined = " ".join(words)
    if joined.lstrip().startswith("["):
        try:
            parsed = json.loads(f"[{joined.strip().replace('] [', '],[')}]")
        except (ValueError, RecursionError):
            raise WrongValue(f"must be a list such as {_example(kind)}, found {joined}") from None
        return parsed[0] if len(parsed) == 1 and not _too_flat(parsed[0], inner) else parsed
    if get_origin(inner) is list:
        return [_list_of_words(inner, words)]
    pieces = [piece for word in words for piece in (word.split(",") if inner is not str else [word]) if piece]
    return [_plain(inner, piece) for piece in pieces]


def _too_flat(parsed: List[Any], inner: Any) -> bool:
    """Whether `[1, 2]` was given where a list of lists is meant."""
    return get_origin(inner) is list and bool(parsed) and not isinstance(parsed[0], list)


def _example(kind: Any) -> str:
    (inner,) = get_args(kind)
    return "[[1, 2], [5, 6]]" if get_origin(inner) is list else '["a", "b"]' if inner is str else "[1, 2]"


def _plain(kind: Any, word: str) -> Any:
    """A word of the command line as JSON would hold it; left as text where it is not a number."""
    if kind in (int, float):
        for convert in (int, float):
            try:
                return convert(word)
            except ValueError:
                continue
    return word


def _bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).lower()
    if isinstance(value, (int, str)) and word in _WORDS:
        return _WORDS[word]
    raise WrongValue(f"must be true or false, found {shown(value)}")


def _integer(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    better = ""
    number = _as_number(value)
    if number is not None and number.is_integer():
        better = f"; write {int(number)}"
    raise WrongValue(f"must be an integer, found {shown(value)}{better}")


def _number(value: Any) -> float:
    number = _as_number(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if number is None:
            raise WrongValue(f"must be a finite number, found {shown(value)[:20]}")
        return number
    better = f"; write {number:g} without quotes" if number is not None else ""
    raise WrongValue(f"must be a number, found {shown(value)}{better}")


def _as_number(value: Any) -> Optional[float]:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and not isinstance(value, bool) else None


def _text(value: Any, choices: Optional[Tuple[str, ...]]) -> str:
    if not isinstance(value, str):
        better = "" if isinstance(value, (bool, list, dict)) else f'; write "{shown(value)}"'
        raise WrongValue(f"must be text, found {shown(value)}{better}")
    return _choice(value, choices) if choices else value


def _switched(value: Any, word: str) -> Any:
    """`word` or "" where true or false was written for a text that had been a switch."""
    known = {True: word, False: "", "True": word, "true": word, "False": "", "false": ""}
    return known.get(value, value) if word and isinstance(value, (bool, str)) else value


def _spelled(value: Any) -> Any:
    """ "true" or "false" where that was written in one of the ways a boolean may be."""
    known = _WORDS.get(str(value).lower())
    return value if known is None else str(known).lower()


def _choice(value: Any, choices: Any) -> str:
    if isinstance(value, str) and value in choices:
        return value
    hint = did_you_mean(value, choices) if isinstance(value, str) else ""
    raise WrongValue(f"must be one of {', '.join(choices)}; found {shown(value)}{hint}")


def shown(value: Any) -> str:
    """A value as JSON writes it, for messages."""
    return json.dumps(value, ensure_ascii=False)
