"""Random-access samples per second of GPTDataset, beside the way in which the reference reads the same files.

    python benchmarks/data/read_speed.py [--tokens 20000000] [--rounds 5] [--out result.json]

The reference's `GPTDataset.__getitem__` and memory-mapped `get` are written down here as its documents and source
describe them (one `frombuffer` per document behind an `lru_cache`, a concatenation, a cast), over the same index
arrays. Both read all samples in training order; in alternation, in one process; every sample is compared once.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from functools import lru_cache
from pathlib import Path
from typing import Any, Dict, List, Tuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from paddlenlp.data import MMapIndexedDatasetBuilder  # noqa: E402
from paddlenlp.data.causal_dataset import GPTDataset  # noqa: E402
from paddlenlp.data.indexed_dataset import make_dataset  # noqa: E402

SHAPES = {"short documents": (300, 2048), "long documents": (4000, 2048), "short samples": (1000, 512)}
"""Name -> (mean tokens of a document, tokens of a sample)."""


class PeerStore:
    """The tokens of one dataset, read as the reference does."""

    def __init__(self, prefix: str, sizes: np.ndarray, pointers: np.ndarray, dtype: np.dtype) -> None:
        self._bytes = memoryview(np.memmap(f"{prefix}.bin", mode="r", order="C"))  # type: ignore[arg-type]
        self._sizes, self._pointers, self._dtype = sizes, pointers, dtype
        self._place = lru_cache(maxsize=8)(self._look_up)

    def _look_up(self, index: int) -> Tuple[int, int]:
        return self._pointers[index], self._sizes[index]

    def get(self, index: int, offset: int = 0, length: Any = None) -> np.ndarray:
        pointer, size = self._place(index)
        length = size - offset if length is None else length
        return np.frombuffer(
            self._bytes, dtype=self._dtype, count=length, offset=pointer + offset * self._dtype.itemsize
        )


class PeerDataset:
    """The samples of `ours`, read as the reference does."""

    def __init__(self, ours: GPTDataset, prefix: str) -> None:
        self.doc_idx, self.sample_idx, self.shuffle_idx = ours.doc_idx, ours.sample_idx, ours.shuffle_idx
        self.store = PeerStore(prefix, ours.store.sizes, ours.store.pointers, ours.store.dtype)

    def __getitem__(self, index: int) -> Dict[str, np.ndarray]:
        row = self.shuffle_idx[index]
        first, last = self.sample_idx[row][0], self.sample_idx[row + 1][0]
        begin, end = self.sample_idx[row][1], self.sample_idx[row + 1][1]
        if first == last:
            sample = self.store.get(self.doc_idx[first], offset=begin, length=end - begin + 1)
        else:
            parts = [self.store.get(self.doc_idx[first], offset=begin)]
            parts += [self.store.get(self.doc_idx[place]) for place in range(first + 1, last)]
            parts.append(self.store.get(self.doc_idx[last], length=end + 1))
            sample = np.concatenate(parts)
        return {"text": np.array(sample, dtype=np.int64)}


def write(prefix: str, tokens: int, mean: int) -> None:
    """A dataset of `tokens` random tokens in documents of exponentially distributed lengths."""
    rng = np.random.RandomState(1)
    builder = MMapIndexedDatasetBuilder(prefix, np.uint16)
    while builder.tokens < tokens:
        builder.add_item(rng.randint(0, 50000, 1 + int(rng.exponential(mean)), dtype=np.uint16))
        builder.end_document()
    builder.finalize()


def rate(dataset: Any, samples: int) -> float:
    """Samples per second over all of them in order."""
    start = time.perf_counter()
    for index in range(samples):
        dataset[index]
    return samples / (time.perf_counter() - start)


def measure(mean: int, length: int, tokens: int, rounds: int) -> Dict[str, float]:
    """Both rates and their ratio on one shape of data."""
    with tempfile.TemporaryDirectory() as folder:
        prefix = f"{folder}/data"
        write(prefix, tokens, mean)
        store = make_dataset(prefix, "mmap")
        samples = tokens // length
        ours = GPTDataset("train", prefix, range(len(store)), store, "1,0,0", samples, length, 1)
        peer = PeerDataset(ours, prefix)
        for index in range(samples):
            assert np.array_equal(ours[index]["text"], peer[index]["text"])
        rates: List[Tuple[float, float]] = [(rate(ours, samples), rate(peer, samples)) for _ in range(rounds)]
    own, other = (statistics.median(column) for column in zip(*rates))
    ratio = statistics.median(a / b for a, b in rates)
    return {"samples_per_second": round(own), "peer_samples_per_second": round(other), "ratio": round(ratio, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=20_000_000, help="tokens of each dataset")
    parser.add_argument("--rounds", type=int, default=5, help="times that each reads everything")
    parser.add_argument("--out", help="JSON file for the result")
    args = parser.parse_args()
    result: Dict[str, Any] = {"machine": platform.processor(), "numpy": np.__version__, "date": time.strftime("%F")}
    for name, (mean, length) in SHAPES.items():
        result[name] = measure(mean, length, args.tokens, args.rounds)
        print(name, result[name], flush=True)
    if args.out:
        Path(args.out).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
