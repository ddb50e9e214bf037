"""Checkpoints on disk: written whole or not at all, verified by hash, rotated safely. Knows tensors and JSON, no model.

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
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional

from paddlenlp.checkpoint.manifest import verify, write_manifest
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.files import PathLike, atomic_write_json, fsync_folder
from paddlenlp.utils.log import logger
from paddlenlp.utils.tensor_files import TensorFiles, write_shards
from paddlenlp.utils.tensor_writer import tensor_bytes

__all__ = [
    "Checkpoint",
    "check_free_space",
    "checkpoint_bytes",
    "checkpoint_folders",
    "get_last_checkpoint",
    "latest_checkpoint",
    "remove_checkpoint",
    "rotate",
    "save_checkpoint",
    "verify",
]

_FOLDER = re.compile(r"checkpoint-(\d+)")
_HIDDEN = re.compile(r"\.(checkpoint-\d+)\.(partial|replaced|removed)-(\d+)")
_SPARE_BYTES = 1 << 22
"""Room for indexes, states and other small files."""

TensorGroups = Mapping[str, Mapping[str, Any]]


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


def save_checkpoint(
    output_dir: PathLike,
    step: int,
    tensors: TensorGroups,
    states: Mapping[str, Any],
    write_extra: Optional[Callable[[Path], None]] = None,
) -> Path:
    """Write `checkpoint-{step}` in `output_dir`, whole and durable or not at all; an existing one is replaced.

    Args:
        tensors: stem ("model", "optimizer", "master_weights") -> name -> Paddle tensor, array or LazyTensor. A stem
            without tensors is left out.
        states: file name -> value, written as JSON.
        write_extra: called with the folder being written, to add further files (configuration, tokenizer).

    Returns:
        The folder of the checkpoint.

    Raises:
        UsageError: too little space or a failed write; with the path, the bytes needed and those free. What was in
            `output_dir` before is as it was.
    """
    final = Path(output_dir) / f"checkpoint-{step}"
    partial = _hidden(final, "partial")
    needed = checkpoint_bytes(tensors)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        _settle(final.parent)
        check_free_space(final.parent, needed)
        partial.mkdir()
        _write_content(partial, step, tensors, states, write_extra)
        _put_in_place(partial, final)
    except OSError as error:
        raise UsageError(
            f"{final}: cannot write the checkpoint: {error}. It needs {needed:,} bytes, "
            f"{_free_bytes(final):,} are free. Earlier checkpoints are untouched."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return final


def _write_content(
    folder: Path,
    step: int,
    tensors: TensorGroups,
    states: Mapping[str, Any],
    write_extra: Optional[Callable[[Path], None]],
) -> None:
    masters = bool(tensors.get("master_weights"))
    known: Dict[str, str] = {}
    for stem, group in tensors.items():
        if group:
            fields = {"master_weights": masters} if stem == "optimizer" else None
            written = write_shards(folder, stem, group, index_fields=fields, checksum=True)
            known.update({file.name: file.sha256 for file in written if file.sha256})
    for name, value in states.items():
        atomic_write_json(folder / name, value, sort_keys=True)
    if write_extra:
        write_extra(folder)
    write_manifest(folder, step, known)


def _put_in_place(partial: Path, final: Path) -> None:
    """Rename; an older folder of that name steps aside first and is removed last, so that one of both always exists."""
    replaced = _hidden(final, "replaced")
    if final.exists():
        os.rename(final, replaced)
    try:
        os.rename(partial, final)
    except OSError:
        _restore_replaced(final.parent)
        raise
    fsync_folder(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def checkpoint_bytes(tensors: TensorGroups) -> int:
    """Bytes that a checkpoint of these tensors takes on disk, at most."""
    return sum(tensor_bytes(value) for group in tensors.values() for value in group.values()) + _SPARE_BYTES


def check_free_space(output_dir: PathLike, needed: int) -> None:
    """Refuse to start writing what cannot fit.

    Raises:
        UsageError: the file system of `output_dir` has fewer than `needed` bytes free.
    """
    free = _free_bytes(Path(output_dir))
    if free < needed:
        raise UsageError(
            f"{output_dir}: a checkpoint needs {needed:,} bytes, {free:,} are free. Free some space, choose another "
            "output_dir, or lower save_total_limit."
        )


def _free_bytes(path: Path) -> int:
    """Bytes free where `path` is or will be."""
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    return shutil.disk_usage(there).free


def latest_checkpoint(output_dir: PathLike) -> Optional[Path]:
    """The checkpoint with the highest step in `output_dir` that is whole; None if there is none.

    Each newer one that is rejected is logged with the files and reasons, and left where it is.
    """
    output_dir = Path(output_dir)
    if not output_dir.is_dir():
        return None
    _restore_replaced(output_dir)
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
    hidden = _hidden(folder, "removed")
    os.rename(folder, hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def _hidden(final: Path, word: str) -> Path:
    return final.with_name(f".{final.name}.{word}-{os.getpid()}")


def _settle(output_dir: Path) -> None:
    """Clean up after processes that died while they wrote, replaced or removed a checkpoint here."""
    _restore_replaced(output_dir)
    for path in output_dir.glob(".checkpoint-*"):
        found = _HIDDEN.fullmatch(path.name)
        if found and _dead(int(found.group(3))):
            logger.info(f"Removing {path}, left by a process that ended while it wrote")
            shutil.rmtree(path, ignore_errors=True)


def _restore_replaced(output_dir: Path) -> None:
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
