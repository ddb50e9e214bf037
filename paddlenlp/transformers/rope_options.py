"""The ways to write the rotary options of a model, brought to one: `rope_theta` and `rope_scaling`."""

from __future__ import annotations

from typing import Any, Dict, List, Optional

from paddlenlp.nn.frequencies import SCALINGS
from paddlenlp.utils.errors import UsageError

# Other spellings of a rope_type -> the one used here.
SPELLINGS = {"dynamic_ntk": "dynamic"}
# Fields of a scaling that stand beside it in the configuration.
BESIDE = ("max_position_embeddings",)
# Fields that hold a number for each pair of features.
LISTS = ("short_factor", "long_factor")


def normalize_rope(values: Dict[str, Any]) -> Dict[str, Any]:
    """Replace every spelling of the rotary options by `rope_theta` and `rope_scaling` (None, or with a `rope_type`).

    Understood: `rope_scaling` with `rope_type` or the older `type`; `rope_parameters`, which also holds `rope_theta`;
    `rope_scaling_type` with `rope_scaling_factor`. A type "default" means none.

    Raises:
        UsageError: two spellings are given and say different things.
    """
    values = dict(values)
    forms = {"rope_scaling": values.pop("rope_scaling", None), "rope_parameters": values.pop("rope_parameters", None)}
    if values.get("rope_scaling_type") is not None:
        kind, factor = values["rope_scaling_type"], values.get("rope_scaling_factor", 1.0)
        forms["rope_scaling_type/rope_scaling_factor"] = {"rope_type": kind, "factor": factor}
    values = {name: value for name, value in values.items() if name not in ("rope_scaling_type", "rope_scaling_factor")}
    given = {name: form for name, form in forms.items() if form is not None}
    for form in given.values():
        if isinstance(form, dict) and "rope_theta" in form:
            values["rope_theta"] = form["rope_theta"]
    read = {name: _canonical(form) for name, form in given.items()}
    different = [name for name in read if read[name] != next(iter(read.values()))]
    if different:
        raise UsageError(f"{next(iter(read))} and {different[0]} disagree: {given}; keep one of them")
    values["rope_scaling"] = next(iter(read.values()), None)
    return values


def rope_problems(scaling: Optional[Dict[str, Any]]) -> List[str]:
    """What is wrong in a canonical `rope_scaling`, one sentence each."""
    if scaling is None:
        return []
    kind = scaling.get("rope_type") if isinstance(scaling, dict) else None
    if kind not in SCALINGS:
        return [f"rope_scaling={scaling!r}: rope_type must be one of {', '.join(SCALINGS)}"]
    needed = [name for name in SCALINGS[kind].needed if name not in BESIDE]
    missing = [name for name in needed if name not in scaling]
    found = [f"rope_scaling of type {kind!r} lacks {', '.join(missing)}"] if missing else []
    for name in needed:
        numbers = scaling.get(name, []) if name in LISTS else [scaling.get(name, 1)]
        if not (isinstance(numbers, list) and all(isinstance(x, (int, float)) and x > 0 for x in numbers)):
            what = "a list of positive numbers" if name in LISTS else "a positive number"
            found.append(f"rope_scaling: {name} must be {what}, found {scaling[name]!r}")
    optional = {name: scaling[name] for name in SCALINGS[kind].optional if scaling.get(name) is not None}
    odd = [f"rope_scaling: {k} must be a number, found {v!r}" for k, v in optional.items() if not _is_number(v)]
    return found + odd


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and value >= 0


def hf_rope(values: Dict[str, Any], head_dim: int) -> Dict[str, Any]:
    """`values` with rotary options that Hugging Face transformers has: "ntk" scaling becomes the base it amounts to."""
    scaling = values["rope_scaling"]
    if scaling is None or scaling["rope_type"] != "ntk":
        return values
    stretched = values["rope_theta"] * scaling["factor"] ** (head_dim / (head_dim - 2))
    return {**values, "rope_theta": stretched, "rope_scaling": None}


def _canonical(form: Any) -> Any:
    if not isinstance(form, dict):
        return form
    fields = {name: value for name, value in form.items() if name not in ("rope_theta", "type", "rope_type")}
    kind = form.get("rope_type", form.get("type"))
    if kind == "default" or (kind is None and not fields):
        return None
    return {"rope_type": SPELLINGS.get(str(kind), kind), **fields}
