"""Unified checkpoints that PaddleNLP wrote: their tensors and position are read, what is pickled in them is not."""

from __future__ import annotations

from pathlib import Path
from typing import List

from paddlenlp.checkpoint.manifest import MANIFEST
from paddlenlp.trainer.snapshot import RNG_STATE

NOT_READ = (
    "PaddleNLP wrote it: its pickled files (rng_state, scheduler, scaler, training_args) are not read. Random numbers "
    "are drawn anew, and the learning rate goes on from the step that trainer_state.json gives."
)


def indexes(folder: Path) -> List[Path]:
    """The index files of which a unified checkpoint has one at least."""
    return [folder / f"{stem}.safetensors.index.json" for stem in ("model", "master_weights")]


def is_foreign(folder: Path) -> bool:
    """Whether `folder` is a unified checkpoint that this toolkit did not write, which always adds a manifest and the
    states of the random generators in JSON."""
    ours = any((folder / name).is_file() for name in (MANIFEST, RNG_STATE))
    return not ours and any(path.is_file() for path in indexes(folder))
