"""Gigabytes per second of `dataset.py verify`, and peak memory of it and of a merge, on small and on large datasets.

    python benchmarks/data/verify_speed.py [--megabytes 64 1024] [--rounds 3] [--folder DIR] [--out result.json]

Verification hashes every byte and looks at every id. Beside it stands SHA-256 alone over the same bytes, which bounds
it. Files are read from the page cache. Each measurement runs in a process of its own. On a machine with other load the
rate by CPU time of the busiest thread (one hashes, one looks at ids) says what the wall time would be without it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from paddlenlp.data import MMapIndexedDatasetBuilder  # noqa: E402
from paddlenlp.data.dataset_copy import merge_datasets  # noqa: E402
from paddlenlp.data.dataset_verify import verify_dataset  # noqa: E402
from paddlenlp.utils.files import sha256_file  # noqa: E402


def write(prefix: str, megabytes: int, dtype: str) -> None:
    """A dataset of that size of random tokens, 500 a document."""
    rng = np.random.RandomState(1)
    with MMapIndexedDatasetBuilder(prefix, dtype) as builder:
        documents = (1 << 20) // np.dtype(dtype).itemsize // 500
        for _ in range(megabytes):
            ids = rng.randint(0, 50_000, documents * 500).astype(dtype)
            builder.add_documents(ids, np.full(documents, 500, "i4"), np.ones(documents, np.int64))
        builder.finalize(vocab_size=50_000)


def one(task: str, prefix: str) -> Dict[str, Any]:
    """Run `task` once, and say how fast it was and how much memory this process took beyond that of its imports."""
    size = Path(prefix + ".bin").stat().st_size + Path(prefix + ".idx").stat().st_size
    start, cpu, main = time.perf_counter(), time.process_time(), time.thread_time()
    if task == "verify":
        assert not verify_dataset(prefix).problems
    elif task == "hash":
        hashed = [sha256_file(prefix + end) for end in (".bin", ".idx")]
        assert len(hashed[0]) == hashlib.sha256().digest_size * 2
    else:
        merge_datasets([prefix, prefix], prefix + ".merged")
    seconds, cpu, main = time.perf_counter() - start, time.process_time() - cpu, time.thread_time() - main
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "gigabytes_per_second": size / 1e9 / seconds,
        "gigabytes_per_cpu_second_of_the_busiest_thread": size / 1e9 / max(main, cpu - main),
        "peak_megabytes": peak / 1024,
        "anonymous_megabytes": anonymous(),
    }


def anonymous() -> float:
    """Memory of this process that no file stands behind, in MB, at the end of the task; -1 where that is not told."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon")), -1.0)


def measure(task: str, prefix: str, rounds: int) -> Dict[str, Any]:
    """Medians of `rounds` processes."""
    found = []
    for _ in range(rounds):
        words = [sys.executable, __file__, "--one", task, prefix]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return {name: round(statistics.median(one[name] for one in found), 3) for name in found[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[64, 1024])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help="where to write (default: the system's temporary folder)")
    parser.add_argument("--out")
    parser.add_argument("--one", nargs=2, metavar=("TASK", "PREFIX"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(*args.one)))
        return
    results: Dict[str, Any] = {
        "date": time.strftime("%F"),
        "machine": platform.processor() or platform.machine(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
    }
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for megabytes in args.megabytes:
            for dtype in ("uint16", "int32"):
                prefix = f"{folder}/{dtype}"
                write(prefix, megabytes, dtype)
                for task in ("verify", "hash", "merge"):
                    results[f"{task} {megabytes} MB {dtype}"] = measure(task, prefix, args.rounds)
                    print(task, megabytes, dtype, results[f"{task} {megabytes} MB {dtype}"], flush=True)
    if args.out:
        Path(args.out).write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
