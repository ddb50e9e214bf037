"""One run at a time writes checkpoints into a folder. The kernel knows whether the run that did so before is over.

A lock on a file, which ends with its process however that ends and wherever it ran, needs no clock and never has to be
cleared. It forbids nothing: whoever has it knows that all half-written things in the folder are a dead run's.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import BinaryIO, Dict, Set

from paddlenlp.utils.files import PathLike
from paddlenlp.utils.locks import LockedByOther, lock_file
from paddlenlp.utils.log import logger

LOCK = ".run.lock"

_held: Dict[Path, BinaryIO] = {}
"""The folder that this process has, one at most, and its lock."""

_refused: Set[Path] = set()


def claim(output_dir: PathLike) -> bool:
    """Lock `output_dir` until this process ends or claims another folder; whether that is so.

    Not where another process has it, which a warning says once; nor where locks are not to be had, or nothing can be
    written.
    """
    folder = Path(output_dir).resolve()
    if folder in _held:
        return True
    try:
        file = open(folder / LOCK, "a+b", buffering=0)  # noqa: SIM115
    except OSError:
        return False
    try:
        lock_file(file)
    except OSError as error:
        if isinstance(error, LockedByOther) and folder not in _refused:
            _refused.add(folder)
            _warn(folder, file)
        file.close()
        return False
    _release()
    _held[folder] = file
    _sign(file)
    return True


def _release() -> None:
    while _held:
        _held.popitem()[1].close()


def _sign(file: BinaryIO) -> None:
    """Say in the file whose it is; a full disk does not matter."""
    try:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
    except OSError:
        return


def _warn(folder: Path, file: BinaryIO) -> None:
    file.seek(0)
    logger.warning(
        f"Another run is writing checkpoints into {folder} ({file.read(200).decode(errors='replace')}). Two runs need "
        "two output_dirs: end one of them."
    )
