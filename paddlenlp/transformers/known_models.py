"""Models known by name: their configurations come with the toolkit, so training from scratch downloads nothing."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple, Union

from paddlenlp.transformers.configuration_utils import CONFIG_NAME, read_json
from paddlenlp.transformers.hub import resolve_folder

TABLE = Path(__file__).with_name("known_models.json")


@functools.lru_cache(maxsize=1)
def _table() -> Dict[str, Any]:
    return json.loads(TABLE.read_text(encoding="utf-8"))


def known_names() -> List[str]:
    """All built-in model names, sorted."""
    return sorted(_table()["models"])


def known_config(name: str) -> Optional[Dict[str, Any]]:
    """The values of a built-in model's config.json, or None."""
    table = _table()
    return dict(table["configs"][table["models"][name]]) if name in table["models"] else None


def read_config_dict(name_or_dir: Union[str, Path]) -> Tuple[Dict[str, Any], str]:
    """The values of config.json of a folder, of a built-in name, or of a model on the hub; and where they are from.

    Raises:
        UsageError: there is no such folder or model, or its config.json is not valid.
    """
    folder = Path(name_or_dir).expanduser()
    known = None if folder.is_dir() else known_config(str(name_or_dir))
    if known is not None:
        return known, f"built-in model {name_or_dir}"
    path = resolve_folder(name_or_dir, (CONFIG_NAME,)) / CONFIG_NAME
    return read_json(path), str(path)
