"""Packages whose names are imported at first use (PEP 562), so that importing them costs nothing."""

from __future__ import annotations

import importlib
import sys
from typing import Any, Callable, Dict, List, Tuple


def lazy_module(package: str, names: Dict[str, str]) -> Tuple[Callable[[str], Any], Callable[[], List[str]], List[str]]:
    """`(__getattr__, __dir__, __all__)` of a package that offers `names`.

    Args:
        package: `__name__` of the package.
        names: public name -> module that defines it, relative to the package, without the leading dot.
    """

    def getattr_(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f".{names[name]}", package), name)
        setattr(sys.modules[package], name, value)
        return value

    def dir_() -> List[str]:
        return sorted(set(vars(sys.modules[package])) | set(names))

    return getattr_, dir_, sorted(names)
