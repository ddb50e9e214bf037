"""One function over many files: in processes, in order, with progress."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Callable, Iterable, Iterator, List, Sequence, Tuple, TypeVar

from tqdm import tqdm

from paddlenlp.data.workers import worker_pool

Result = TypeVar("Result")


def map_files(
    function: Callable[[Path, Path], Result],
    pairs: Sequence[Tuple[Path, Path]],
    workers: int = 1,
    log_interval: int = 1,
) -> Iterator[Result]:
    """`function(source, target)` of every pair, in order.

    Args:
        function: something that can be sent to another process.
        workers: processes; 1 is this process itself.
        log_interval: files between two lines where standard error is not a terminal.

    Raises:
        UsageError: a worker process died.
    """
    sizes = [source.stat().st_size for source, _ in pairs]
    if workers <= 1 or len(pairs) == 1:
        yield from _with_progress((function(*pair) for pair in pairs), sizes, log_interval)
        return
    with worker_pool(min(workers, len(pairs))) as pool:
        yield from _with_progress(pool.map(function, *zip(*pairs)), sizes, log_interval)


def _with_progress(results: Iterable[Result], sizes: List[int], log_interval: int) -> Iterator[Result]:
    """`results`, one for each of files of these `sizes` in bytes."""
    start, done = time.perf_counter(), 0
    terminal = sys.stderr.isatty()
    with tqdm(total=sum(sizes), unit="B", unit_scale=True, disable=not terminal) as bar:
        for number, (result, size) in enumerate(zip(results, sizes), 1):
            done += size
            bar.update(size)
            if not terminal and number % log_interval == 0:
                rate = done / 1e6 / max(time.perf_counter() - start, 1e-9)
                print(f"{number} of {len(sizes)} files ({done / 1e6:.1f} MB, {rate:.2f} MB/s)", file=sys.stderr)
            yield result


def targets_in(folder: Path, files: Sequence[Path], suffix: str) -> List[Tuple[Path, Path]]:
    """Each of `files` with a path below `folder`: where it stands below the folder common to all, `suffix` added."""
    common = Path(os.path.commonpath([file.absolute().parent for file in files]))
    return [(file, folder / f"{file.absolute().relative_to(common)}{suffix}") for file in files]


__all__ = ["map_files", "targets_in"]
