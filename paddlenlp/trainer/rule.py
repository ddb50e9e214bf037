"""The form of one rule about the arguments, and the view of all arguments a rule reads."""

from __future__ import annotations

from dataclasses import Field, fields
from typing import Any, Callable, Dict, NamedTuple, Sequence, Tuple, Union


class View:
    """All argument objects of a run as one: any field or property by its name."""

    def __init__(self, objects: Sequence[Any]) -> None:
        self._objects = objects
        self.fields: Dict[str, Field] = {item.name: item for made in objects for item in fields(made)}

    def __getattr__(self, name: str) -> Any:
        for made in self._objects:
            if hasattr(type(made), name) or name in self.fields and hasattr(made, name):
                return getattr(made, name)
        raise AttributeError(name)


class Rule(NamedTuple):
    """One row: the arguments it reads (the first gives the place), when it applies, and what to say then."""

    reads: Tuple[str, ...]
    applies: Callable[[Any], bool]
    message: Union[str, Callable[[Any], str]]

    def text(self, view: Any) -> str:
        """The message, filled in."""
        return self.message if isinstance(self.message, str) else self.message(view)
