"""Writing a checkpoint: whole and durable, or not at all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, Optional

from paddlenlp.checkpoint.folder import hidden, restore_replaced, settle
from paddlenlp.checkpoint.manifest import write_manifest
from paddlenlp.checkpoint.space import TensorGroups, check_free_space, checkpoint_bytes, free_bytes
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.files import PathLike, atomic_write_json, fsync_folder
from paddlenlp.utils.tensor_files import write_shards


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
    partial = hidden(final, "partial")
    needed = checkpoint_bytes(tensors)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        settle(final.parent)
        check_free_space(final.parent, needed)
        partial.mkdir()
        _write_content(partial, step, tensors, states, write_extra)
        _put_in_place(partial, final)
    except OSError as error:
        raise UsageError(
            f"{final}: cannot write the checkpoint: {error}. It needs {needed:,} bytes, "
            f"{free_bytes(final):,} are free. Earlier checkpoints are untouched."
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
    replaced = hidden(final, "replaced")
    if final.exists():
        os.rename(final, replaced)
    try:
        os.rename(partial, final)
    except OSError:
        restore_replaced(final.parent)
        raise
    fsync_folder(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)
