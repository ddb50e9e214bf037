"""The folders of a run: what is written is there and durable, how fast; what is read can be read."""

from __future__ import annotations

import os
import secrets
import time
from contextlib import suppress
from pathlib import Path
from typing import List

from paddlenlp.data.discovery import find_data_prefixes
from paddlenlp.utils.disk import free_bytes, write_failed
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.files import fsync_folder
from paddlenlp.utils.log import logger

from .finding import FAIL, OK, WARN, Finding

MIB = 1 << 20
SLOW = 50 * MIB
"""Bytes a second below which checkpoints of large models take their time: 2 GiB a minute and a half."""

_BLOCK = 4 * MIB


def output_folder(folder: str, size: int) -> Finding:
    """Write a file of `size` bytes to where `folder` is or will be, sync, rename and read it, then remove it.

    A checkpoint is kept safe by just these: data that is on the disk after fsync, and a rename that is all or nothing.
    """
    there = next(path for path in (Path(folder), *Path(folder).absolute().parents) if path.exists())
    where = str(there) if there == Path(folder) else f"{there} (where {folder} will be)"
    if not there.is_dir():
        return Finding("output_dir", FAIL, f"{there} is a file", "Choose another output_dir.")
    trial = there / f".doctor-{secrets.token_hex(6)}"
    try:
        free = free_bytes(there)
        if free < size:
            raise OSError(28, os.strerror(28))
        seconds = _try(trial, size)
    except _Different as error:
        advice = "Don't trust this storage with checkpoints: see the system's log, or choose another output_dir."
        return Finding("output_dir", FAIL, f"{where}: {error}", advice)
    except OSError as error:
        return Finding("output_dir", FAIL, str(write_failed(there, error, size, "a trial file")), "See the message.")
    finally:
        for path in (trial, trial.with_suffix(".there")):
            with suppress(OSError):
                path.unlink()
    return _rate(where, size, seconds, free)


def _rate(where: str, size: int, seconds: float, free: int) -> Finding:
    rate = size / max(seconds, 1e-9)
    text = f"{where}: write, fsync, rename and read are right; {rate / MIB:.0f} MiB/s, {free / 2**30:.1f} GiB free"
    if rate < SLOW:
        advice = "Training waits for checkpoints: choose faster storage, or --unified_checkpoint_config async_save."
        return Finding("output_dir", WARN, text, advice)
    return Finding("output_dir", OK, text)


class _Different(Exception):
    """What is read is not what was written."""


def _try(trial: Path, size: int) -> float:
    """Seconds for writing and syncing."""
    block = os.urandom(min(_BLOCK, size))
    count = max(1, size // len(block))
    start = time.perf_counter()
    with open(trial, "wb") as file:
        for _ in range(count):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    seconds = time.perf_counter() - start
    there = trial.with_suffix(".there")
    os.replace(trial, there)
    fsync_folder(there.parent)
    if trial.exists() or not there.exists():
        raise _Different("after a rename the file is not under its new name alone")
    with open(there, "rb") as file:
        for number in range(count):
            if file.read(len(block)) != block:
                raise _Different(f"what is read from byte {number * len(block):,} on is not what was written")
    return seconds


def input_data(input_dir: str) -> Finding:
    """Whether the data files can be opened by this process. What is in them is the dry run's business."""
    told, logger.disabled = logger.disabled, True  # it lists the datasets
    try:
        _, prefixes = find_data_prefixes(input_dir)
    except (UsageError, OSError) as error:
        return Finding("input_dir", FAIL, str(error), "See the message; relative paths start at the present folder.")
    finally:
        logger.disabled = told
    files = [path for prefix in prefixes for path in _files(prefix)]
    closed = [str(path) for path in files if not os.access(path, os.R_OK)]
    if closed:
        return Finding("input_dir", FAIL, f"can't be read: {', '.join(closed[:3])}", f"chmod a+r {closed[0]}")
    total = sum(path.stat().st_size for path in files)
    many = f"{len(prefixes)} data sets" if len(prefixes) > 1 else "1 data set"
    return Finding("input_dir", OK, f"{input_dir}: {many} of {total / MIB:,.1f} MiB can be read")


def _files(prefix: str) -> List[Path]:
    names = [prefix + suffix for suffix in (".bin", ".idx", "_ids.npy", "_idx.npz")]
    return [Path(name) for name in names if os.path.isfile(name)]
