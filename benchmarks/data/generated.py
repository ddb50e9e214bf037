"""Generated text, and a tokenizer for it: what the measurements of preparing data read."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import List

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from paddlenlp.transformers.tokenizer_training import save_trained, train_byte_level_bpe  # noqa: E402

TOOL = Path(__file__).resolve().parents[2] / "llm/tools/create_pretraining_data.py"
_DISTINCT = 20_000_000


def documents(size: int, seed: int = 1) -> List[str]:
    """About `size` characters of made-up words in documents of a hundred to some thousand words."""
    rng = random.Random(seed)
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    words = ["".join(rng.choices(letters, k=rng.randint(2, 11))) for _ in range(30000)]
    weights = [1 / (rank + 3) for rank in range(len(words))]
    pool = rng.choices(words, weights, k=max(size // 6, 5000))
    found, used, position = [], 0, 0
    while used < size:
        length = 100 + int(rng.expovariate(1 / 300))
        found.append(" ".join(pool[position : position + length]) + ".")
        position = (position + length) % (len(pool) - 3000) if len(pool) > 3000 else 0
        used += len(found[-1])
    return found


def write_text(path: Path, size: int) -> None:
    """A .jsonl file of about `size` bytes; beyond 20 MB its documents come again under other numbers."""
    some = documents(min(size, _DISTINCT))
    with open(path, "w", encoding="utf-8") as file:
        written = number = 0
        while written < size:
            line = json.dumps({"text": f"{number} {some[number % len(some)]}"}) + "\n"
            written += file.write(line)
            number += 1


def write_tokenizer(folder: Path, vocabulary: int = 8000) -> None:
    """A byte-level BPE tokenizer learned from such text."""
    save_trained(train_byte_level_bpe(documents(2_000_000), vocabulary), folder)
