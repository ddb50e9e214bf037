"""How much room checkpoints need, and how much there is."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Iterable, Mapping, NamedTuple, Optional

from paddlenlp.checkpoint.folder import rotate
from paddlenlp.utils.disk import free_bytes
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.files import PathLike
from paddlenlp.utils.log import logger
from paddlenlp.utils.tensor_writer import tensor_bytes

_SPARE_BYTES = 1 << 22
"""Room for indexes, states and other small files."""

TensorGroups = Mapping[str, Mapping[str, Any]]
"""Stem ("model", "optimizer") -> name -> tensor."""


class Plan(NamedTuple):
    """The checkpoints that a run is going to have.

    Attributes:
        to_come: checkpoints it will write; None if that is not known.
        most: how many may lie beside each other, the one being written included; None: none is removed.
        here: those of this run that lie there already.
        to_go: folders of an earlier run, which are removed once the first checkpoint is there.
    """

    to_come: Optional[int]
    most: Optional[int]
    here: int = 0
    to_go: Iterable[Path] = ()


def checkpoint_bytes(tensors: TensorGroups) -> int:
    """Bytes that a checkpoint of these tensors takes on disk, at most."""
    return sum(tensor_bytes(value) for group in tensors.values() for value in group.values()) + _SPARE_BYTES


def check_free_space(output_dir: PathLike, needed: int) -> None:
    """Refuse to start writing what cannot fit.

    Raises:
        UsageError: fewer than `needed` bytes can be written to `output_dir`.
    """
    free = free_bytes(Path(output_dir))
    if free < needed:
        raise UsageError(
            f"{output_dir}: a checkpoint needs {needed:,} bytes, {free:,} are free. Free some space, choose another "
            "output_dir, or lower save_total_limit."
        )


def check_run_fits(output_dir: PathLike, each: int, plan: Plan) -> None:
    """Find out before a run whether the checkpoints that it will have beside each other fit.

    Args:
        each: bytes of one checkpoint.

    Raises:
        UsageError: they do not; with the path, the bytes needed and free. Where nothing is ever removed
            (`plan.most` is None) only the next checkpoint must fit, and a warning says how many do.
    """
    if plan.to_come == 0:
        return
    check_free_space(output_dir, each)
    free = free_bytes(Path(output_dir)) + sum(map(folder_bytes, plan.to_go))
    if plan.most is None:
        if plan.to_come is not None and free < plan.to_come * each:
            logger.warning(
                f"{output_dir}: {plan.to_come} checkpoints of {each:,} bytes are to come and none is removed, but "
                f"{free:,} bytes are free, which is room for {free // each}. Set save_total_limit."
            )
        return
    to_come = plan.most if plan.to_come is None else plan.to_come
    new = max(1, min(plan.most, plan.here + to_come) - plan.here)
    if free < new * each:
        raise UsageError(
            f"{output_dir}: the run needs {new * each:,} bytes for its checkpoints, {free:,} are free: {each:,} bytes "
            f"each, of which up to {new} more will lie there before the oldest goes. Free some space, choose another "
            "output_dir, or lower save_total_limit."
        )


def make_room(output_dir: PathLike, needed: int, limit: Optional[int], keep: Iterable[Optional[PathLike]] = ()) -> None:
    """Where the next checkpoint does not fit, remove at once those that `rotate` would remove after it.

    The newest is read back first and stays, as do those in `keep`; with a `limit` of 1, or none, nothing is removed.
    """
    if limit and limit > 1 and free_bytes(Path(output_dir)) < needed:
        rotate(output_dir, limit - 1, keep)


def folder_bytes(folder: Path) -> int:
    """Bytes of all files in `folder`."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
