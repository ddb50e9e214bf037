"""Speed of preparing a dataset beside the tokenizer's own `encode_batch`, on the same text and the same cores.

    python benchmarks/data/prepare_speed.py [--megabytes 40] [--rounds 3] [--out result.json]

The peer holds all texts in memory and calls `encode_batch` (and `encode_batch_fast`) of the `tokenizers` library on its
threads: nothing is read, parsed, cleaned, hashed or written. Ours is the whole of `make_dataset_from_text`, from the
.jsonl file to synced files, the start of its processes included. In alternation; ratios are of one round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, List

from generated import write_text, write_tokenizer

from paddlenlp.data.preprocess import DocumentEncoder, RunOptions, make_dataset_from_text
from paddlenlp.data.preprocess_text import TextOptions
from paddlenlp.transformers.auto.tokenizer import AutoTokenizer


def seconds(work: Callable[[], Any]) -> float:
    """Wall time of `work`."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_batches(encode: Callable[[List[str]], Any], texts: List[str]) -> None:
    """`encode` of a thousand texts at a time, as its authors advise."""
    for low in range(0, len(texts), 1000):
        encode(texts[low : low + 1000])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", help="JSON file for the result")
    args = parser.parse_args()
    from tokenizers import Tokenizer

    cores = len(os.sched_getaffinity(0))
    rounds: List[Dict[str, float]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tokenizer(folder / "tokenizer")
        write_text(folder / "text.jsonl", args.megabytes * 1_000_000)
        with open(folder / "text.jsonl", encoding="utf-8") as file:
            texts = [json.loads(line)["text"] for line in file]
        size = (folder / "text.jsonl").stat().st_size / 1e6
        peer = Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json"))
        encoder = DocumentEncoder(AutoTokenizer.from_pretrained(str(folder / "tokenizer")), TextOptions())
        inputs, prefix = [str(folder / "text.jsonl")], str(folder / "out")
        for _ in range(args.rounds):
            taken = {
                "encode_batch": seconds(lambda: in_batches(peer.encode_batch, texts)),
                "prepare": seconds(lambda: make_dataset_from_text(inputs, prefix, encoder, RunOptions(workers=cores))),
                "encode_batch_fast": seconds(lambda: in_batches(peer.encode_batch_fast, texts)),
            }
            rounds.append({what: size / value for what, value in taken.items()})
            print({what: round(value, 2) for what, value in rounds[-1].items()}, "MB/s", flush=True)
    result: Dict[str, Any] = {"date": time.strftime("%F"), "cores": cores, "load": round(os.getloadavg()[0], 1)}
    for what in rounds[0]:
        result[f"{what}_megabytes_per_second"] = round(statistics.median(found[what] for found in rounds), 2)
    for what in ("encode_batch", "encode_batch_fast"):
        ratio = statistics.median(found["prepare"] / found[what] for found in rounds)
        result[f"prepare_over_{what}"] = round(ratio, 3)
    print(result)
    if args.out:
        Path(args.out).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
