"""A flat JSON object read with the line of every key, duplicates kept."""

from __future__ import annotations

import json
import re
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any, List, NamedTuple

_BLANK = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


class Entry(NamedTuple):
    """One key of the object, its value, and the line (from 1) the key stands in."""

    key: str
    value: Any
    line: int


class JsonSyntaxError(ValueError):
    """The text is not one JSON object. `line` counts from 1; `entries` are those read before the error."""

    def __init__(self, message: str, line: int, entries: List[Entry]) -> None:
        super().__init__(message)
        self.line = line
        self.entries = entries


def scan_object(text: str) -> List[Entry]:
    """The entries of the JSON object `text`, in order.

    Raises:
        JsonSyntaxError: with the place of the first error.
    """
    entries: List[Entry] = []
    try:
        position = _expect(text, 0, "{", "a JSON object in braces { }")
        if text[position : position + 1] == "}":
            return _end(text, position + 1, entries)
        while True:
            position = _read_entry(text, position, entries)
            if text[position : position + 1] == "}":
                return _end(text, position + 1, entries)
            position = _expect(text, position, ",", "a comma or a closing brace")
            if text[position : position + 1] == "}":
                raise json.JSONDecodeError("a comma before the closing brace; delete it", text, position)
    except json.JSONDecodeError as error:
        message = f"not valid JSON: {error.msg[0].lower()}{error.msg[1:]} (column {error.colno})"
        raise JsonSyntaxError(message, error.lineno, entries) from None


def _read_entry(text: str, position: int, entries: List[Entry]) -> int:
    """Reads `"key": value` at `position`; returns the position of what follows it."""
    start = _expect(text, position, '"', "a key in double quotes", skip=False)
    key, after = scanstring(text, start)
    colon = _expect(text, _skip(text, after), ":", f'a colon after "{key}"')
    try:
        value, after = _DECODER.raw_decode(text, colon)
    except json.JSONDecodeError as error:
        if error.pos != colon:
            raise
        raise json.JSONDecodeError(f'the value of "{key}" is not JSON{_hint(text, colon)}', text, colon) from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets thousands deep
        raise json.JSONDecodeError(f'the value of "{key}" cannot be read: {error}', text, colon) from None
    entries.append(Entry(key, value, text.count("\n", 0, position) + 1))
    return _skip(text, after)


def _hint(text: str, position: int) -> str:
    word = re.match(r"[^\s,}\]]*", text[position:])
    found = word.group() if word else ""
    better = {"True": "true", "False": "false", "None": "null"}.get(found)
    if better:
        return f"; write {better}, not {found}"
    return f'; put text in double quotes: "{found.strip(chr(39))}"' if found else ""


def _expect(text: str, position: int, sign: str, what: str, skip: bool = True) -> int:
    """The position after `sign` (and the blanks that follow, if `skip`), which must stand at `position`."""
    position = _skip(text, position)
    found = text[position : position + 1]
    if found != sign:
        raise json.JSONDecodeError(f"expected {what}, found {repr(found) if found else 'the end'}", text, position)
    return _skip(text, position + 1) if skip else position + 1


def _skip(text: str, position: int) -> int:
    match = _BLANK.match(text, position)
    return match.end() if match else position


def _end(text: str, position: int, entries: List[Entry]) -> List[Entry]:
    position = _skip(text, position)
    if position != len(text):
        raise json.JSONDecodeError("text after the closing brace", text, position)
    return entries
