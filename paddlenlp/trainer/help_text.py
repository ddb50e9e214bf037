"""The text of --help: every argument, by group, with type, default, what it does and whether it acts here."""

from __future__ import annotations

import textwrap
from dataclasses import Field
from typing import Any, Dict, List, Mapping

from .fields import GROUPS, is_required, limits_text, status_of
from .suggest import nearest
from .values import type_name

_WIDTH = 110


def help_text(prog: str, fields: Mapping[str, Field], types: Mapping[str, Any], word: str = "") -> str:
    """Help on all arguments, or on those whose name, group or help holds `word`."""
    groups: Dict[str, List[str]] = {key: [] for key in GROUPS}
    for name, field in fields.items():
        if not word or _matches(word, name, field):
            groups[field.metadata["group"]].append(_entry(name, field, types[name]))
    if word and not any(groups.values()):
        near = ", ".join(nearest(word, fields))
        return f'No argument has "{word}" in its name or help.' + (f" Near it: {near}." if near else "")
    sections = [f"{GROUPS[key][0]}\n{'-' * len(GROUPS[key][0])}\n" + "\n".join(e) for key, e in groups.items() if e]
    return "\n\n".join([_usage(prog), *sections] if not word else sections)


def _usage(prog: str) -> str:
    return f"""usage: {prog} [FILE.json] [--name value] [--flag] [--no_flag] [--help [WORD]]

FILE.json holds one flat JSON object of the arguments below; what stands on the command line wins over it.
Lists: --report_to visualdl wandb; lists of lists: --skip_data_intervals "[[1, 2], [5, 6]]". null means the default."""


def _matches(word: str, name: str, field: Field) -> bool:
    word = word.lower().lstrip("-").replace("-", "_")
    title = GROUPS[field.metadata["group"]][0].lower()
    return word in name.lower() or word == field.metadata["group"] or word in title.split()


def _entry(name: str, field: Field, kind: Any) -> str:
    default = "required" if is_required(field) else f"default {default_text(field.default)}"
    head = f"  --{name}  ({type_name(kind)}, {default})"
    return head + "\n" + textwrap.fill(description(field), _WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)


def description(field: Field) -> str:
    """Help, allowed words and limits, and what is special about the argument's status."""
    parts = [field.metadata["help"]]
    if field.metadata.get("choices"):
        parts.append(f"One of: {', '.join(field.metadata['choices'])}.")
    if limits_text(field):
        parts.append(f"Allowed: {limits_text(field)}.")
    status, reason = status_of(field)
    if status == "noted":
        parts.append(f"[Accepted, changes nothing: {reason}.]")
    elif status == "refused":
        parts.append(f"[Other values are refused: {reason}.]")
    return " ".join(parts)


def default_text(value: Any) -> str:
    """A default as JSON writes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f'"{value}"' if isinstance(value, str) else str(value)
