"""Facts about a dataset in `{prefix}.meta.json`, written with it and checked whenever it is opened.

Keys: tokenizer_sha256, vocab_size, max_token_id, documents, sequences, tokens, dtype, bin_bytes, bin_sample_sha256 (of
some blocks: compared whenever the data is opened), bin_sha256 and idx_sha256 (of the whole files), command.
All are optional when reading: the reference writes no such file.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any, Dict, Optional

from paddlenlp.data.layout_checks import refuse
from paddlenlp.data.token_store import TokenStore
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.files import atomic_write_json, parse_json

_BLOCK = 4096
_BLOCKS = 64


def sidecar_path(prefix: str) -> str:
    """`{prefix}.meta.json`."""
    return prefix + ".meta.json"


def sample_sha256(data_path: str) -> str:
    """SHA-256 over 64 blocks of 4 KiB spread evenly over the file, first and last included: tells files of equal length
    apart without reading them whole."""
    digest = hashlib.sha256()
    last = max(0, os.path.getsize(data_path) - _BLOCK)
    with open(data_path, "rb") as file:
        for position in sorted({last * block // (_BLOCKS - 1) for block in range(_BLOCKS)}):
            file.seek(position)
            digest.update(file.read(_BLOCK))
    return digest.hexdigest()


def write_sidecar(prefix: str, facts: Dict[str, Any]) -> None:
    """Write `facts` beside dataset `prefix`, atomically."""
    atomic_write_json(sidecar_path(prefix), facts)


def read_sidecar(prefix: str) -> Optional[Dict[str, Any]]:
    """The facts beside dataset `prefix`, or None where there are none.

    Raises:
        UsageError: the file is not a JSON object.
    """
    path = sidecar_path(prefix)
    if not os.path.isfile(path):
        return None
    with open(path, encoding="utf-8") as file:
        try:
            facts = parse_json(file.read())
        except ValueError as error:
            raise UsageError(f"{path} is not JSON ({error}). Remove it, or make the dataset again.") from None
    if not isinstance(facts, dict):
        raise UsageError(f"{path} holds a {type(facts).__name__}, expected an object. Remove it.")
    return facts


def check_sidecar(store: TokenStore, data_path: str) -> None:
    """Compare `store` with the facts written beside it, if any.

    Raises:
        UsageError: naming the first fact that differs.
    """
    facts = read_sidecar(store.path)
    if facts is None:
        return
    found = {
        "bin_bytes": os.path.getsize(data_path),
        "dtype": store.dtype.name,
        "documents": store.num_documents,
        "tokens": len(store.tokens),
    }
    for name, value in found.items():
        if facts.get(name, value) != value:
            raise refuse(data_path, f"{sidecar_path(store.path)} records another {name}", facts[name], value)
    recorded = facts.get("bin_sample_sha256")
    if recorded and recorded != sample_sha256(data_path):
        raise refuse(
            data_path,
            f"it has the right length but other content than {sidecar_path(store.path)} records",
            f"sampled sha256 {recorded[:12]}",
            sample_sha256(data_path)[:12],
        )
