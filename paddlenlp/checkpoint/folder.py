"""Checkpoints on disk: found, verified by hash, rotated safely; written by `writing`. Knows tensors and JSON, no model.

    checkpoint-20/
      model-00001-of-00001.safetensors           model.safetensors.index.json
      optimizer-00001-of-00001.safetensors       optimizer.safetensors.index.json
      master_weights-00001-of-00001.safetensors  master_weights.safetensors.index.json
      trainer_state.json rng_state.json ...      state as JSON
      manifest.json                              size and SHA-256 of every file, written last

Names and index follow the unified checkpoint of the reference. A checkpoint is written into a folder beside its final
place (`.checkpoint-20.partial-<host>-<pid>`), synced, and renamed. One that turns out to be damaged is kept aside
(`checkpoint-20.rejected`). What dead processes have left is told by process and lock (see `claim`), never by time.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any, Iterable, List, Optional, Sequence

from paddlenlp.checkpoint.claim import claim
from paddlenlp.checkpoint.manifest import verify
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.files import PathLike, parse_json, remove_partial_files
from paddlenlp.utils.log import logger
from paddlenlp.utils.processes import has_ended, process_name
from paddlenlp.utils.retries import retrying
from paddlenlp.utils.tensor_files import TensorFiles

_FOLDER = re.compile(r"checkpoint-(\d+)")
_HIDDEN = re.compile(r"\.(checkpoint-\d+)\.(partial|replaced|removed)-(.+-\d+)")


def step_of(folder: PathLike) -> int:
    """The step in the name of a checkpoint's folder.

    Raises:
        UsageError: it has another name.
    """
    found = _FOLDER.fullmatch(Path(folder).name)
    if not found:
        raise UsageError(f"{folder}: not a checkpoint; expected a folder named checkpoint-<step>.")
    return int(found.group(1))


class Checkpoint:
    """Reads the parts of one checkpoint folder, each when it is asked for. Does not verify: see `verify`."""

    def __init__(self, folder: PathLike) -> None:
        self.folder = Path(folder)

    @property
    def step(self) -> int:
        """The step of the folder's name."""
        return step_of(self.folder.resolve())

    def has(self, stem: str) -> bool:
        """Whether tensors were saved under `stem` ("model", "optimizer", "master_weights")."""
        return (self.folder / f"{stem}.safetensors.index.json").is_file()

    def tensors(self, stem: str) -> TensorFiles:
        """The tensors saved under `stem`.

        Raises:
            UsageError: none are there, or their files are damaged.
        """
        return TensorFiles(self.folder, stem)

    def state(self, name: str) -> Any:
        """The content of JSON file `name`.

        Raises:
            UsageError: it is missing or not JSON.
        """
        path = self.folder / name
        try:
            return parse_json(retrying(lambda: path.read_text(encoding="utf-8"), path))
        except (OSError, ValueError) as error:
            raise UsageError(f"{path}: cannot read this part of the checkpoint ({error}).") from None


def latest_checkpoint(output_dir: PathLike) -> Optional[Path]:
    """The checkpoint with the highest step in `output_dir` that is whole; None if there is none.

    Each newer one that is rejected is logged with the files and reasons, and left where it is.
    """
    output_dir = Path(output_dir)
    if not output_dir.is_dir():
        return None
    restore_replaced(output_dir)
    for folder in reversed(checkpoint_folders(output_dir)):
        problems = verify(folder)
        if not problems:
            return folder
        logger.warning(f"{folder} is not used, it is not a whole checkpoint: {'; '.join(problems)}")
    return None


def get_last_checkpoint(folder: PathLike) -> Optional[str]:
    """`latest_checkpoint` as text, under the name that users of the reference know."""
    found = latest_checkpoint(folder)
    return None if found is None else str(found)


def rotate(output_dir: PathLike, limit: Optional[int], keep: Iterable[Optional[PathLike]] = ()) -> List[Path]:
    """Remove the oldest checkpoints, by step, until at most `limit` are left; returns the removed folders.

    Nothing is removed unless the newest checkpoint has been read back and is whole. The newest, and those in `keep`
    (the one just written, the best one), always stay. Folders without a manifest are no checkpoints: they are neither
    counted nor removed.

    Args:
        limit: None or 0 keeps all.
    """
    output_dir = Path(output_dir)
    folders = [folder for folder in checkpoint_folders(output_dir) if (folder / "manifest.json").is_file()]
    excess = len(folders) - limit if limit else 0
    if excess <= 0:
        return []
    problems = verify(folders[-1])
    if problems:
        logger.warning(f"No old checkpoint is removed, because {folders[-1]} is not whole: {'; '.join(problems)}")
        return []
    kept = {folders[-1].resolve()} | {Path(folder).resolve() for folder in keep if folder}
    removed = [folder for folder in folders if folder.resolve() not in kept][:excess]
    for folder in removed:
        logger.info(f"Deleting older checkpoint [{folder}] due to save_total_limit")
        remove_checkpoint(folder)
    return removed


def checkpoint_folders(output_dir: PathLike) -> List[Path]:
    """Folders named checkpoint-<step> in `output_dir`, whole or not, by step."""
    if not Path(output_dir).is_dir():
        return []
    found = {path: _FOLDER.fullmatch(path.name) for path in Path(output_dir).iterdir() if path.is_dir()}
    return sorted((path for path, match in found.items() if match), key=step_of)


def remove_checkpoint(folder: PathLike) -> None:
    """Hide the folder, then delete it: half a deletion never looks like a checkpoint.

    Where that is not possible a warning says so; the folder then stays what it was.
    """
    folder = Path(folder)
    aside = hidden(folder, "removed")
    try:
        os.rename(folder, aside)
    except OSError as error:
        logger.warning(f"{folder} cannot be removed: {error.strerror}")
        return
    shutil.rmtree(aside, ignore_errors=True)


def set_aside(folder: PathLike, problems: Sequence[str]) -> Optional[Path]:
    """Rename a checkpoint that is not whole, so that its step can be saved anew; it is never counted nor removed.

    Returns:
        Where it lies now: `checkpoint-20.rejected`, or with a number behind if that is taken. None if it cannot be
        renamed, which a warning says.
    """
    folder = Path(folder)
    aside = folder.with_name(f"{folder.name}.rejected")
    number = 1
    while aside.exists():
        number += 1
        aside = folder.with_name(f"{folder.name}.rejected-{number}")
    listed = "; ".join(problems)
    try:
        os.rename(folder, aside)
    except OSError as error:
        logger.warning(f"{folder} is not a whole checkpoint ({listed}), and cannot be set aside: {error.strerror}")
        return None
    logger.warning(f"{folder} is not a whole checkpoint ({listed}): it is set aside as {aside.name}")
    return aside


def hidden(final: Path, word: str) -> Path:
    """Where a folder lies while it is written, replaced or removed: beside its place, under a name no reader takes."""
    return final.with_name(f".{final.name}.{word}-{process_name()}")


def settle(output_dir: Path) -> None:
    """Clean up after processes that died while they wrote, replaced or removed a checkpoint here; for the one process
    that writes here from now on."""
    claim(output_dir)
    restore_replaced(output_dir)
    for path in output_dir.glob(".checkpoint-*"):
        found = _HIDDEN.fullmatch(path.name)
        if found and _dead(found.group(3), output_dir):
            logger.info(f"Removing {path}, left by a process that ended while it wrote")
            shutil.rmtree(path, ignore_errors=True)


def settle_files(output_dir: Path) -> None:
    """Remove what dead processes have left of other files of a run here, such as the weights at its end; for a run that
    begins and writes none of them yet."""
    remove_partial_files(output_dir, lambda name: _dead(name, output_dir))


def restore_replaced(output_dir: Path) -> None:
    """Undo a replacement that was cut off between its two renames."""
    for path in output_dir.glob(".checkpoint-*.replaced-*"):
        found = _HIDDEN.fullmatch(path.name)
        if found and _dead(found.group(3), output_dir) and not (output_dir / found.group(1)).exists():
            try:
                os.rename(path, output_dir / found.group(1))
            except OSError as error:
                logger.warning(f"{path} cannot be renamed back to {found.group(1)}: {error.strerror}")


def _dead(name: str, output_dir: Path) -> bool:
    """Whether what a process of this name has hidden here is of no use to any (this one is not in the middle of a save
    when it asks)."""
    return name == process_name() or has_ended(name) or claim(output_dir)
