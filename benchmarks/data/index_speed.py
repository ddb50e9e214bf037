"""Seconds and memory to build the order of samples, beside the compiled helper of fast_dataindex; and to open it again.

    python benchmarks/data/index_speed.py [--documents 10000000] [--rounds 5] [--out result.json]
    python benchmarks/data/index_speed.py --open 1000000000 --folder DISK [--out result.json]

The first form builds an index in both ways in turn, and compares them: the rows of `sample_idx` alone, and with the
two shuffles, which the reference leaves to `RandomState.shuffle`; and the order of blends, in both ways and by the
plain loop. The second form makes a dataset and an index of so many samples (16 bytes of disk each), opens it anew in a
process of its own and reads samples at ten positions.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Dict, List, Tuple

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from paddlenlp.data import MMapIndexedDatasetBuilder  # noqa: E402
from paddlenlp.data.blending import (  # noqa: E402
    blending_indices,
    numpy_blending_indices,
    plain_blending_indices,
)
from paddlenlp.data.causal_dataset import PARTS, GPTDataset, index_problem  # noqa: E402
from paddlenlp.data.index_builder import (  # noqa: E402
    EpochPlan,
    build_doc_idx,
    build_index,
    build_sample_idx,
    fast_dataindex,
    plan_epochs,
    quiet_stdout,
)
from paddlenlp.data.index_cache import IndexCache  # noqa: E402
from paddlenlp.data.indexed_dataset import make_dataset  # noqa: E402

SHAPES = {"short documents": (20, 800, 2048), "long documents": (200, 4000, 2048), "short samples": (200, 4000, 512)}
"""Name -> (fewest and most tokens of a document, tokens of a sample)."""


def timed(call: Any) -> Tuple[float, Any]:
    began = time.perf_counter()
    value = call()
    return time.perf_counter() - began, value


def peer_index(sizes: np.ndarray, seq_length: int, plan: EpochPlan, seed: int) -> Dict[str, np.ndarray]:
    """An index of one epoch as the reference builds it."""
    rng, helpers = np.random.RandomState(seed), fast_dataindex()
    doc_idx = np.arange(len(sizes), dtype=np.int32)
    rng.shuffle(doc_idx)
    with quiet_stdout():
        sample_idx = helpers.build_sample_idx(sizes, doc_idx, seq_length, 1, plan.tokens)
    shuffle_idx = np.arange(plan.samples, dtype=np.uint32)
    rng.shuffle(shuffle_idx)
    return {"doc_idx": doc_idx, "sample_idx": sample_idx, "shuffle_idx": shuffle_idx}


def our_index(sizes: np.ndarray, seq_length: int, plan: EpochPlan, seed: int) -> Dict[str, np.ndarray]:
    built = build_index(sizes, range(len(sizes)), seq_length, plan, seed)
    return {part: np.asarray(array) for part, array in built.items()}


def compare(documents: int, shape: Tuple[int, int, int], rounds: int) -> Dict[str, Any]:
    """Both ways in turn on the same documents: medians of the seconds."""
    fewest, most, seq_length = shape
    sizes = np.random.RandomState(1).randint(fewest, most + 1, documents).astype(np.int32)
    tokens = int(sizes.sum(dtype=np.int64))
    plan = plan_epochs(tokens, seq_length, tokens // seq_length)
    doc_idx = build_doc_idx(range(documents), plan, np.random.RandomState(2))
    helpers, ours, theirs = fast_dataindex(), [], []
    for _ in range(rounds):
        seconds, found = timed(lambda: build_sample_idx(sizes, doc_idx, seq_length, plan.samples))
        ours.append(seconds)
        if helpers is not None:
            with quiet_stdout():
                seconds, expected = timed(
                    lambda: helpers.build_sample_idx(sizes, doc_idx, seq_length, plan.epochs, plan.tokens)
                )
            theirs.append(seconds)
            assert np.array_equal(found, expected)
    whole: Dict[str, List[float]] = {"ours": [], "theirs": []}
    for _ in range(rounds if helpers is not None else 0):
        seconds, found = timed(lambda: our_index(sizes, seq_length, plan, 3))
        whole["ours"].append(seconds)
        seconds, expected = timed(lambda: peer_index(sizes, seq_length, plan, 3))
        whole["theirs"].append(seconds)
        assert all(np.array_equal(array, found[part]) for part, array in expected.items())
    return {
        "samples": plan.samples,
        "numpy_seconds": statistics.median(ours),
        "fast_dataindex_seconds": statistics.median(theirs) if theirs else None,
        "ratio": statistics.median(theirs) / statistics.median(ours) if theirs else None,
        "whole_index_seconds": {name: statistics.median(seconds) for name, seconds in whole.items() if seconds},
    }


def blends(samples: int) -> Dict[str, Any]:
    """Nanoseconds a sample to blend, of fast_dataindex, of NumPy and of the plain loop (a twentieth of the samples)."""
    rng, helpers, found = np.random.RandomState(1), fast_dataindex(), {}
    for name, weights in {
        "2 datasets": np.array([0.9, 0.1]),
        "10 datasets": rng.rand(10),
        "10 datasets, some rare": rng.rand(10) ** 4,
        "100 datasets": rng.rand(100),
    }.items():
        weights = weights / weights.sum()
        few = samples // 20
        plain, expected = timed(lambda: plain_blending_indices(weights.tolist(), few))  # noqa: B023
        ours, arrays = timed(lambda: numpy_blending_indices(weights, samples))  # noqa: B023
        seconds = {"numpy": ours / samples, "plain_loop": plain / few}
        assert all(np.array_equal(one[:few], other) for one, other in zip(arrays, expected))
        if helpers is not None:
            theirs, expected = timed(lambda: blending_indices(weights, samples))  # noqa: B023
            seconds["fast_dataindex"] = theirs / samples
            assert all(np.array_equal(one, other) for one, other in zip(arrays, expected))
        found[name] = {way: round(1e9 * value) for way, value in seconds.items()}
    return found


def watched(call: Any) -> Tuple[float, Any, Dict[str, int]]:
    """Seconds, value, and how far memory rises: with the pages of files that were written and read, which the system
    takes back when it needs them, and without."""
    before, anonymous = resident("VmRSS"), resident("RssAnon")
    peaks, ended = [anonymous], threading.Event()

    def watch() -> None:
        while not ended.wait(0.01):
            peaks[0] = max(peaks[0], resident("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    seconds, value = timed(call)
    ended.set()
    watcher.join()
    rise = {"peak_bytes": resident("VmHWM") - before, "anonymous_peak_bytes": peaks[0] - anonymous}
    return seconds, value, rise


def resident(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024


def memory(documents: int, folder: Path) -> Dict[str, Any]:
    """How far memory rises while an index of so many documents is built, written and checked, over the bytes of its
    arrays. For a process of its own."""
    sizes = np.random.RandomState(1).randint(20, 800, documents, dtype=np.int32)
    tokens = int(sizes.sum(dtype=np.int64))
    plan, all_of_them = plan_epochs(tokens, 128, tokens // 128), range(documents)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        cache = IndexCache("index", PARTS, [place], lambda found: index_problem(found, sizes, all_of_them, 128, plan))
        _, arrays, rise = watched(lambda: cache.load_or_build(lambda: build_index(sizes, all_of_them, 128, plan, 3)))
    size = sum(array.nbytes for array in arrays.values())
    ratios = {name.replace("bytes", "over_arrays"): round(peak / size, 3) for name, peak in rise.items()}
    return {"array_bytes": size, **rise, **ratios}


def apart(*words: str) -> Dict[str, Any]:
    """What this script says in a process of its own."""
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def make_large(folder: Path, samples: int) -> None:
    """A dataset of one token a sample in documents of 1,000, and its index."""
    builder = MMapIndexedDatasetBuilder(str(folder / "large"), "uint8")
    document = np.arange(1000) % 250
    for _ in range(samples // 1000 + 1):
        builder.add_item(document)
        builder.end_document()
    builder.finalize()


def dataset(folder: Path, samples: int) -> GPTDataset:
    store = make_dataset(str(folder / "large"))
    return GPTDataset("train", str(folder / "large"), range(len(store)), store, "1", samples, 1, 42)


def open_again(folder: Path, samples: int) -> Dict[str, Any]:
    """What a restart does."""
    store = make_dataset(str(folder / "large"))
    began = time.perf_counter()
    data = GPTDataset("train", str(folder / "large"), range(len(store)), store, "1", samples, 1, 42)
    opened = time.perf_counter() - began
    for position in np.linspace(0, samples - 1, 10).astype(np.int64):
        data[int(position)]
    ready = time.perf_counter() - began
    return {"open_seconds": opened, "open_and_ten_positions_seconds": ready}


def large(folder: Path, samples: int) -> Dict[str, Any]:
    """Build once, open three times in processes of their own."""
    place = Path(tempfile.mkdtemp(dir=folder))
    try:
        prepared, _ = timed(lambda: make_large(place, samples))
        built, _, rise = watched(lambda: dataset(place, samples))
        opened = [apart("--open-in", str(place), "--open", str(samples)) for _ in range(3)]
        size = sum(path.stat().st_size for path in (place / "index-cache").glob("*.npy"))
        return {
            "samples": samples,
            "dataset_seconds": prepared,
            "build_and_write_seconds": built,
            "index_bytes": size,
            **rise,
            "opened": opened,
        }
    finally:
        shutil.rmtree(place)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--open", type=int, default=0)
    parser.add_argument("--open-in", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--memory-in", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.open_in:
        print(json.dumps(open_again(options.open_in, options.open)))
        return
    if options.memory_in:
        print(json.dumps(memory(options.documents, options.memory_in)))
        return
    result: Dict[str, Any] = {
        "date": time.strftime("%F"),
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
    }
    if options.open:
        result["large"] = large(options.folder, options.open)
    else:
        for name, shape in SHAPES.items():
            result[name] = compare(options.documents, shape, options.rounds)
            print(name, json.dumps(result[name]), flush=True)
        result["blends_ns_a_sample"] = blends(1_000_000)
        result["memory"] = apart("--memory-in", str(options.folder), "--documents", str(options.documents))
    print(json.dumps(result, indent=2))
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
