"""How soon damaged datasets are refused at open, and how many of the messages about data are tested.

    python benchmarks/data/refusals.py [--documents 10000000] [--folder DISK] [--out result.json]

First every kind of damage is done to a copy of one dataset, which is then opened: it must be refused, by a message
with the file, what was expected and found, and what to do. Then the tests on data run, and the different messages of
`UsageError` that they compare with what is said are counted.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import platform
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Set

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from paddlenlp.data import MMapIndexedDatasetBuilder, make_dataset  # noqa: E402
from paddlenlp.data.indexed_dataset import HEADER  # noqa: E402
from paddlenlp.utils.errors import UsageError  # noqa: E402

TESTS = ["tests/data", "tests/llm/tools/test_create_pretraining_data.py", "tests/llm/tools/test_dataset.py"]
MEAN = 20
"""Tokens of a document."""


def write(prefix: str, documents: int, seed: int) -> None:
    """A dataset of short documents."""
    rng = np.random.RandomState(seed)
    with MMapIndexedDatasetBuilder(prefix, "uint16") as builder:
        for low in range(0, documents, 1 << 18):
            sizes = rng.randint(1, 2 * MEAN, min(1 << 18, documents - low)).astype(np.int32)
            ids = rng.randint(0, 50_000, sizes.sum()).astype(np.uint16)
            builder.add_documents(ids, sizes, np.ones(len(sizes), np.int64))
        builder.finalize()


def damages(documents: int, other: Path) -> Dict[str, Callable[[Path, Path], Any]]:
    """Name -> what is done to (.bin, .idx). `other` is the .bin of another dataset."""
    pointers, index = HEADER.size + 4 * documents, HEADER.size + 12 * documents
    middle = 8 * (documents // 2)
    return {
        "bin without its last byte": lambda data, _: os.truncate(data, data.stat().st_size - 1),
        "bin cut to half": lambda data, _: os.truncate(data, data.stat().st_size // 2),
        "idx cut in its header": lambda _, idx: os.truncate(idx, 20),
        "idx cut in its sizes": lambda _, idx: os.truncate(idx, HEADER.size + 2 * documents),
        "idx without its last byte": lambda _, idx: os.truncate(idx, idx.stat().st_size - 1),
        "type of token changed": lambda _, idx: patch(idx, 17, b"\x04"),
        "bin of another dataset": lambda data, _: shutil.copyfile(other, data),
        "bin of the same length with other content": lambda data, _: patch(data, 0, b"\xff" * 9999),
        "bin of length zero": lambda data, _: os.truncate(data, 0),
        "idx of length zero": lambda _, idx: os.truncate(idx, 0),
        "bin missing": lambda data, _: data.unlink(),
        "idx missing": lambda _, idx: idx.unlink(),
        "idx big-endian": lambda _, idx: patch(idx, 9, struct.pack(">QBQQ", 1, 8, documents, documents + 1)),
        "bytes behind the bin": lambda data, _: append(data),
        "bytes behind the idx": lambda _, idx: append(idx),
        "pointers that fall": lambda _, idx: patch(idx, pointers + middle, struct.pack("<q", 0)),
        "a negative size": lambda _, idx: patch(idx, HEADER.size + middle // 2, struct.pack("<i", -1)),
        "document index beyond the sequences": lambda _, idx: patch(
            idx, index + 8 * documents, struct.pack("<q", documents + 9)
        ),
        "document index that falls": lambda _, idx: patch(idx, index + middle, struct.pack("<q", 0)),
    }


def patch(path: Path, place: int, content: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(content)


def append(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"xxxx")


def refused(folder: Path, whole: Path, damage: Callable[[Path, Path], Any]) -> Dict[str, Any]:
    """Seconds until the damaged copy is refused, and what is said."""
    prefix = folder / "damaged"
    for end in (".bin", ".idx", ".meta.json"):
        shutil.copyfile(f"{whole}{end}", f"{prefix}{end}")
    damage(Path(f"{prefix}.bin"), Path(f"{prefix}.idx"))
    began = time.perf_counter()
    try:
        make_dataset(str(prefix))
        message = ""
    except UsageError as error:
        message = str(error).replace(f"{folder}/", "")
    seconds = time.perf_counter() - began
    low = message.lower()
    return {
        "seconds": round(seconds, 3),
        "refused": bool(message),
        "complete": all(word in low for word in ("damaged.", "expected", "found", "llm/tools/create_pretraining_data")),
        "message": message,
    }


def patterns() -> Set[str]:
    """The messages of `UsageError` that the tests on data expect: those in the tests, and those of a table of tests."""
    found: Set[str] = set()
    for place in TESTS:
        path = ROOT / place
        for file in [path] if path.is_file() else sorted(path.rglob("test_*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                found |= set(_expected(node))
    return found


def _expected(node: ast.AST) -> List[str]:
    if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "raises":
        named = bool(node.args) and getattr(node.args[0], "id", "") == "UsageError"
        values = [word.value for word in node.keywords if word.arg == "match"]
        return [value.value for value in values if named and isinstance(value, ast.Constant)]
    if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "MUTATIONS":
        rows = node.value.values if isinstance(node.value, ast.Dict) else []
        return [
            row.elts[1].value for row in rows if isinstance(row, ast.Tuple) and isinstance(row.elts[1], ast.Constant)
        ]
    return []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found: Dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        write(str(folder / "whole"), options.documents, 1)
        write(str(folder / "other"), 1000, 2)
        size = sum(path.stat().st_size for path in folder.glob("whole.*"))
        for kind, damage in damages(options.documents, folder / "other.bin").items():
            found[kind] = refused(folder, folder / "whole", damage)
            print(kind, found[kind], flush=True)
    messages = sorted(patterns())
    tests = subprocess.run([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *TESTS], cwd=ROOT, check=False)
    result = {
        "date": time.strftime("%F"),
        "machine": platform.processor() or platform.machine(),
        "documents": options.documents,
        "bytes": size,
        "kinds": len(found),
        "refused": sum(one["refused"] for one in found.values()),
        "complete": sum(one["complete"] for one in found.values()),
        "slowest_seconds": max(one["seconds"] for one in found.values()),
        "damages": found,
        "tests_pass": tests.returncode == 0,
        "messages_tested": len(messages),
        "messages": messages,
    }
    print({name: value for name, value in result.items() if name not in ("damages", "messages")})
    if options.out:
        options.out.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
