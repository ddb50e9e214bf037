"""Reading all of a dataset once: is it what was written, and is every token id one of the vocabulary?"""

from __future__ import annotations

import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional

import numpy as np
from tqdm import tqdm

from paddlenlp.data.megatron import format_of, open_any, paths_of
from paddlenlp.data.sidecar import read_sidecar, sample_sha256, sidecar_path, write_sidecar
from paddlenlp.data.token_ids import IdScan, locate
from paddlenlp.data.token_store import TokenStore
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.files import sha256_file

_BLOCK = 1 << 20


@dataclass
class Verdict:
    """What reading dataset `prefix` showed.

    Attributes:
        problems: what is wrong; none if it is whole.
        notes: what could not be compared.
        facts: of what was read, under the names of the sidecar.
        size: bytes read.
        seconds: that took.
    """

    prefix: str
    problems: List[str] = field(default_factory=list)
    notes: List[str] = field(default_factory=list)
    facts: Dict[str, Any] = field(default_factory=dict)
    size: int = 0
    seconds: float = 0.0


def verify_dataset(prefix: str, vocab_size: Optional[int] = None, source: Optional[str] = None) -> Verdict:
    """Check the layout of dataset `prefix`, hash both files, look at every id, and compare with the sidecar.

    Args:
        vocab_size: all ids must be below it; by default what the sidecar records.
        source: prefix of another copy, of which both files are compared.
    """
    verdict, start = Verdict(prefix), time.perf_counter()
    try:
        store = open_any(prefix, ignore_modes=True)
        recorded = read_sidecar(prefix) or {}
    except (UsageError, OSError) as error:
        verdict.problems.append(str(error))
        return verdict
    data_path, index_path = paths_of(prefix)
    ids = IdScan(vocab_size if vocab_size is not None else recorded.get("vocab_size"))
    data_sha256 = _hash_and_scan(data_path, store, ids)
    verdict.size = os.path.getsize(data_path) + os.path.getsize(index_path)
    verdict.facts = {
        "documents": store.num_documents,
        "sequences": len(store),
        "tokens": len(store.tokens),
        "max_token_id": ids.largest,
        "dtype": store.dtype.name,
        "bin_bytes": os.path.getsize(data_path),
        "bin_sample_sha256": sample_sha256(data_path),
        "bin_sha256": data_sha256,
        "idx_sha256": sha256_file(index_path),
    }
    verdict.seconds = time.perf_counter() - start
    _compare(verdict, recorded, store, ids)
    if source is not None:
        _compare_copies(verdict, source)
    return verdict


def _hash_and_scan(path: str, store: TokenStore, ids: IdScan) -> str:
    """SHA-256 of the file of the tokens; its ids go to `ids`. One thread hashes a block while another reads on."""
    digest = hashlib.sha256()
    size = os.path.getsize(path)
    bar = tqdm(total=size, unit="B", unit_scale=True, desc=f"reading {path}", disable=None)
    with open(path, "rb", buffering=0) as file, ThreadPoolExecutor(1) as pool, bar:
        digest.update(file.read(size - store.tokens.nbytes))  # the header of an .npy file
        buffers, hashing = [memoryview(bytearray(_BLOCK)) for _ in range(2)], None
        for position in range(0, store.tokens.nbytes, _BLOCK):
            block = _fill(file, buffers[position // _BLOCK % 2])
            if hashing is not None:
                hashing.result()
            hashing = pool.submit(digest.update, block)
            ids.look_at(np.frombuffer(block, store.dtype))
            bar.update(len(block))
        if hashing is not None:
            hashing.result()
    return digest.hexdigest()


def _fill(file: Any, buffer: memoryview) -> memoryview:
    """As much of `buffer` as the file still fills; a read may give less than it was asked for."""
    done = 0
    while done < len(buffer):
        count = file.readinto(buffer[done:])
        if not count:
            break
        done += count
    return buffer[:done]


def _compare(verdict: Verdict, recorded: Dict[str, Any], store: TokenStore, ids: IdScan) -> None:
    data_path, index_path = paths_of(verdict.prefix)
    if ids.first is not None:
        document, place = locate(store, ids.first)
        expected = "0 or more" if ids.limit is None else f"0 to {ids.limit - 1}"
        found = store.tokens[ids.first]
        verdict.problems.append(
            f"{data_path}: token id {found} in document {document} at token {place}: not {expected}"
        )
    for name, value in verdict.facts.items():
        path = index_path if name == "idx_sha256" else data_path
        if recorded.get(name, value) != value:
            remedy = "Copy it again, or make the dataset again."
            where = sidecar_path(verdict.prefix)
            verdict.problems.append(f"{path}: {name} is {value}, {where} records {recorded[name]}. {remedy}")
    missing = [name for name in ("bin_sha256", "idx_sha256") if name not in recorded]
    if missing:
        verdict.notes.append(f"no {' and '.join(missing)} recorded to compare with; --record keeps those of today")
    if ids.limit is None:
        verdict.notes.append("no vocabulary known; --vocab_size checks the ids")


def _compare_copies(verdict: Verdict, source: str) -> None:
    for mine, theirs, name in zip(paths_of(verdict.prefix), paths_of(source), ("bin_sha256", "idx_sha256")):
        if not os.path.isfile(theirs):
            verdict.problems.append(f"{theirs}: no such file to compare {mine} with")
        elif sha256_file(theirs) != verdict.facts[name]:
            verdict.problems.append(f"{mine} differs from {theirs}. Copy it again.")


def record_facts(verdict: Verdict) -> None:
    """Put the facts of a whole dataset into its sidecar, beside those it has.

    Raises:
        UsageError: it is damaged, or in the legacy format, which has no sidecar.
    """
    if verdict.problems or format_of(verdict.prefix) == "legacy":
        reason = "it is damaged" if verdict.problems else "the legacy format has none: dataset.py convert it"
        raise UsageError(f"{sidecar_path(verdict.prefix)} was not written: {reason}.")
    write_sidecar(verdict.prefix, {**(read_sidecar(verdict.prefix) or {}), **verdict.facts})


__all__ = ["Verdict", "record_facts", "verify_dataset"]
