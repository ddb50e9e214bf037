"""Copying saved tensors into live ones: all names and shapes are compared first, then values are copied bitwise."""

from __future__ import annotations

from typing import Any, Iterable, List, Mapping, Sequence

import numpy as np
from paddle import Tensor

from paddlenlp.parallel.holdings import lines_everywhere, names_everywhere
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.host_memory import as_values, writable
from paddlenlp.utils.tensor_files import Excerpt, TensorFiles, bf16_to_float32

_SHOWN = 8


def match(own: Mapping[str, Tensor], saved: Any, what: str, ignored: Iterable[str] = ()) -> None:
    """`match_shapes` with those of live tensors."""
    match_shapes({name: value.shape for name, value in own.items()}, saved, what, ignored)


def match_shapes(own: Mapping[str, Sequence[int]], saved: Any, what: str, ignored: Iterable[str] = ()) -> None:
    """Compare the names and shapes of `saved` (a mapping from name to array or tensor) with what is wanted.

    All ranks that share the model do so together, and agree: what one has no use for another may need.

    Args:
        own: name -> shape, of what this rank has.
        what: names `saved` in the message.
        ignored: names that `saved` may hold though `own` does not.

    Raises:
        UsageError: entries are missing, left over or of another shape; the message names them.
    """
    names = set(saved.keys())
    missing = lines_everywhere(name for name in own if name not in names)
    unexpected = sorted(names - names_everywhere([*own, *ignored]))
    misshapen = [
        f"{name} (found {found}, expected {list(shape)})"
        for name, shape in own.items()
        if name in names and (found := _shape(saved, name)) != list(shape)
    ]
    problems = _group("missing", missing) + _group("unexpected", unexpected)
    problems += _group("of another shape", lines_everywhere(misshapen))
    if problems:
        where = getattr(saved, "folder", None)
        raise UsageError(
            f"{what}{f' in {where}' if where else ''} does not fit this model: {'; '.join(problems)}. "
            "Resume with the model and the trainable parameters that the checkpoint was written with."
        )


def fill(target: Tensor, value: Any) -> None:
    """Copy `value` into the float32 tensor `target` in place, which has as many elements.

    Args:
        value: an array or tensor of any float type (uint16 arrays are bfloat16 bits); or an Excerpt, which is then read
            a block at a time.
    """
    if isinstance(value, Excerpt):
        with writable(target) as values:
            flat = values.reshape(-1)
            for start, block in value.blocks():
                flat[start : start + block.size] = as_values(block, value.dtype, target.dtype)
        return
    if isinstance(value, Tensor):
        target.set_value(value.reshape(target.shape).astype(target.dtype))
        return
    if value.dtype == np.uint16:
        value = bf16_to_float32(value)
    target.set_value(np.asarray(value, dtype=np.float32).reshape(target.shape))


def _shape(saved: Any, name: str) -> List[int]:
    return list(saved.shape(name) if isinstance(saved, TensorFiles) else saved[name].shape)


def _group(word: str, names: List[str]) -> List[str]:
    if not names:
        return []
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return [f"{len(names)} {word}: {', '.join(names[:_SHOWN])}{more}"]
