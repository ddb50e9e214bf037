"""A blend of datasets described in a JSON file, which `input_dir` may name.

    {"datasets": [{"prefix": "web/part-0", "weight": 0.7}, {"prefix": "/data/books", "weight": 0.3}]}

or shorter, `{"web/part-0": 0.7, "/data/books": 0.3}`. Relative prefixes start at the folder of the file, so that both
can be moved together.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, Dict, List, Tuple

from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.files import parse_json

_KEYS = {"prefix", "weight"}


def is_blend_file(input_dir: str) -> bool:
    """Whether `input_dir` names a blend description."""
    return input_dir.endswith(".json") and os.path.isfile(input_dir)


def read_blend_file(path: str) -> Tuple[List[float], List[str]]:
    """Weights and prefixes, in the order of the file.

    Raises:
        UsageError: it is not such a description; all that is wrong with it is listed.
    """
    try:
        content = parse_json(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read as JSON ({error}).") from None
    rows = _rows(path, content)
    problems = [f"entry {number}: {problem}" for number, row in enumerate(rows, 1) if (problem := _problem(row))]
    prefixes = [row["prefix"] for row in rows if isinstance(row, dict) and isinstance(row.get("prefix"), str)]
    problems += [
        f"{prefix!r} occurs {prefixes.count(prefix)} times"
        for prefix in dict.fromkeys(prefixes)
        if prefixes.count(prefix) > 1
    ]
    if problems or not rows:
        found = "; ".join(problems) or "it names no datasets"
        raise UsageError(
            f'{path}: {found}. Expected {{"datasets": [{{"prefix": "web/part-0", "weight": 0.7}}, ...]}} with a weight '
            "above 0 for each prefix, once."
        )
    folder = os.path.dirname(path)
    return [float(row["weight"]) for row in rows], [os.path.join(folder, row["prefix"]) for row in rows]


def _rows(path: str, content: Any) -> List[Dict[str, Any]]:
    if isinstance(content, dict) and isinstance(content.get("datasets"), list):
        return content["datasets"]
    if isinstance(content, dict) and "datasets" not in content:
        return [{"prefix": prefix, "weight": weight} for prefix, weight in content.items()]
    raise UsageError(f'{path}: expected an object with a list "datasets", found {type(content).__name__}.')


def _problem(row: Any) -> str:
    if not isinstance(row, dict) or set(row) != _KEYS:
        return f"expected the keys prefix and weight, found {sorted(row) if isinstance(row, dict) else row!r}"
    weight = row["weight"]
    if not isinstance(row["prefix"], str) or not row["prefix"]:
        return f"prefix is {row['prefix']!r}, expected a path without extension"
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight < math.inf:
        return f"weight is {weight!r}, expected a number above 0"
    return ""
