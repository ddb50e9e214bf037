"""Checkpoints on disk: found, verified by hash, rotated safely; written by `writing`. Knows tensors and JSON, no model.

    checkpoint-20/
      model-00001-of-00001.safetensors           model.safetensors.index.json
      optimizer-00001-of-00001.safetensors       optimizer.safetensors.index.json
      master_weights-00001-of-00001.safetensors  master_weights.safetensors.index.json
      trainer_state.json rng_state.json ...      state as JSON
      manifest.json                              size and SHA-256 of every file, written last

Names and index follow the unified checkpoint of the reference. A checkpoint is written into a folder beside its final
place (`.checkpoint-20.partial-<pid>`), synced, and renamed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any, Iterable, List, Optional

from paddlenlp.checkpoint.manifest import verify
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.files import PathLike
from paddlenlp.utils.log import logger
from paddlenlp.utils.tensor_files import TensorFiles

_FOLDER = re.compile(r"checkpoint-(\d+)")
_HIDDEN = re.compile(r"\.(checkpoint-\d+)\.(partial|replaced|removed)-(\d+)")


class Checkpoint:
    """Reads the parts of one checkpoint folder, each when it is asked for. Does not verify: see `verify`."""

    def __init__(self, folder: PathLike) -> None:
        self.folder = Path(folder)

    @property
    def step(self) -> int:
        """The step of the folder's name."""
        found = _FOLDER.fullmatch(self.folder.resolve().name)
        if not found:
            raise UsageError(f"{self.folder}: not a checkpoint; expected a folder named checkpoint-<step>.")
        return int(found.group(1))

    def has(self, stem: str) -> bool:
        """Whether tensors were saved under `stem` ("model", "optimizer", "master_weights")."""
        return (self.folder / f"{stem}.safetensors.index.json").is_file()

    def tensors(self, stem: str) -> TensorFiles:
        """The tensors saved under `stem`, memory-mapped.

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
            return json.loads(path.read_text(encoding="utf-8"))
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
    return sorted((path for path, match in found.items() if match), key=lambda path: int(path.name.split("-")[1]))


def remove_checkpoint(folder: PathLike) -> None:
    """Hide the folder, then delete it: half a deletion never looks like a checkpoint."""
    folder = Path(folder)
    aside = hidden(folder, "removed")
    os.rename(folder, aside)
    shutil.rmtree(aside, ignore_errors=True)


def hidden(final: Path, word: str) -> Path:
    """Where a folder lies while it is written, replaced or removed: beside its place, under a name no reader takes."""
    return final.with_name(f".{final.name}.{word}-{os.getpid()}")


def settle(output_dir: Path) -> None:
    """Clean up after processes that died while they wrote, replaced or removed a checkpoint here."""
    restore_replaced(output_dir)
    for path in output_dir.glob(".checkpoint-*"):
        found = _HIDDEN.fullmatch(path.name)
        if found and _dead(int(found.group(3))):
            logger.info(f"Removing {path}, left by a process that ended while it wrote")
            shutil.rmtree(path, ignore_errors=True)


def restore_replaced(output_dir: Path) -> None:
    """Undo a replacement that was cut off between its two renames."""
    for path in output_dir.glob(".checkpoint-*.replaced-*"):
        found = _HIDDEN.fullmatch(path.name)
        if found and _dead(int(found.group(3))) and not (output_dir / found.group(1)).exists():
            os.rename(path, output_dir / found.group(1))


def _dead(pid: int) -> bool:
    """Whether no other process `pid` runs (this one is not in the middle of a save when it asks)."""
    if pid == os.getpid():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
