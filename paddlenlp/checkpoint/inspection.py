"""What lies in a folder of checkpoints, without loading a model or Paddle."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import List, NamedTuple, Optional

from paddlenlp.checkpoint.folder import Checkpoint, checkpoint_folders
from paddlenlp.checkpoint.manifest import MANIFEST, verify
from paddlenlp.checkpoint.space import folder_bytes
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.files import PathLike
from paddlenlp.utils.tensor_files import TensorFiles

STEMS = ("model", "optimizer", "master_weights")
_NAME = re.compile(r"checkpoint-(\d+)(\.rejected(-\d+)?)?")


class Summary(NamedTuple):
    """One checkpoint.

    Attributes:
        folder, step: from its name.
        size: bytes of its files.
        problems: what is wrong with it; empty if nothing was found.
        layout: the mesh that wrote it; empty if it does not say.
        stems: the groups of tensors it holds.
        written: when its manifest was written, by the file system; None without one.
        rejected: whether a run has set it aside.
    """

    folder: Path
    step: int
    size: int
    problems: List[str]
    layout: str
    stems: List[str]
    written: Optional[datetime]
    rejected: bool


def summarise(output_dir: PathLike, content: bool = False) -> List[Summary]:
    """The checkpoints in a folder by step, those that a run has set aside included.

    Args:
        content: read all files and compare them with the manifest; else only their sizes are compared.

    Raises:
        UsageError: there is no such folder.
    """
    found = []
    for folder in folders_of(output_dir, rejected=True):
        match = _NAME.fullmatch(folder.name)
        step, rejected = (int(match[1]), bool(match[2])) if match else (Checkpoint(folder).step, False)
        problems = ["a run found it damaged and set it aside"] if rejected else verify(folder, content=content)
        manifest = folder / MANIFEST
        written = datetime.fromtimestamp(manifest.stat().st_mtime) if manifest.is_file() else None
        size = folder_bytes(folder)
        stems = [stem for stem in STEMS if next(folder.glob(f"{stem}*.safetensors"), None)]
        found.append(Summary(folder, step, size, problems, _layout(folder), stems, written, rejected))
    return sorted(found, key=lambda summary: (summary.step, summary.folder.name))


def examine(folder: PathLike) -> List[str]:
    """What is wrong with a checkpoint, one line each: files that are not what was written, indexes that do not fit."""
    problems = verify(folder)
    if problems:
        return problems
    for stem in STEMS:
        if Checkpoint(folder).has(stem):
            try:
                TensorFiles(folder, stem)
            except UsageError as error:
                problems.append(str(error))
    return problems


def folders_of(path: PathLike, rejected: bool = False) -> List[Path]:
    """The checkpoint that `path` is, or those in it, by step.

    Args:
        rejected: those that were set aside too.

    Raises:
        UsageError: there is no such folder.
    """
    path = Path(path)
    if not path.is_dir():
        raise UsageError(f"{path}: no such folder. Give a checkpoint, or the output_dir of a run.")
    if _NAME.fullmatch(path.resolve().name) or (path / MANIFEST).is_file():
        return [path]
    aside = [other for other in sorted(path.glob("checkpoint-*.rejected*")) if other.is_dir()] if rejected else []
    return [*checkpoint_folders(path), *(other for other in aside if _NAME.fullmatch(other.name))]


def _layout(folder: Path) -> str:
    """The mesh that wrote a checkpoint, as its random states tell."""
    try:
        states = Checkpoint(folder).state("rng_state.json")
        return str(states[0]["mesh"])
    except (UsageError, LookupError, TypeError):
        return ""
