"""What is in a dataset, in words: counts, lengths of documents, and documents as text."""

from __future__ import annotations

from typing import Any, List, Optional, Sequence

import numpy as np

from paddlenlp.data.dataset_lengths import DocumentLengths, document_starts
from paddlenlp.data.megatron import format_of, open_any
from paddlenlp.data.sidecar import read_sidecar
from paddlenlp.data.token_store import TokenStore
from paddlenlp.utils.errors import UsageError

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


def describe(prefix: str, width: int = 50) -> str:
    """Counts, what the sidecar records, and the lengths of the documents of dataset `prefix` as a picture.

    Raises:
        UsageError: it cannot be opened.
    """
    store = open_any(prefix, ignore_modes=True)
    lengths, facts = DocumentLengths(store), read_sidecar(prefix) or {}
    lines = [
        f"{prefix}: {format_of(prefix)}, {store.dtype}",
        f"  documents  {lengths.documents:,}",
        f"  sequences  {len(store):,}",
        f"  tokens     {lengths.tokens:,} ({store.tokens.nbytes:,} bytes)",
    ]
    if facts.get("vocab_size") is not None:
        lines.append(f"  vocabulary {facts['vocab_size']:,}, largest id {facts.get('max_token_id', '-')}")
    if facts.get("tokenizer_sha256"):
        lines.append(f"  tokenizer  sha256 {facts['tokenizer_sha256'][:12]}")
    quantiles = ", ".join(f"{share:.0%} {lengths.quantile(share):,}" for share in _QUANTILES)
    mean = lengths.tokens / lengths.documents
    lines += [
        f"Tokens of a document: {lengths.shortest:,} to {lengths.longest:,}, mean {mean:,.1f}",
        f"At most, for a share of the documents: {quantiles}",
        lengths.picture(width),
    ]
    return "\n".join(lines)


def sample_documents(store: TokenStore, count: int) -> List[int]:
    """Numbers of `count` documents spread evenly over `store`, the first and the last among them."""
    count = min(count, store.num_documents)
    return sorted(set(np.linspace(0, store.num_documents - 1, count).round().astype(int).tolist()))


def show_document(store: TokenStore, number: int, limit: int, tokenizer: Optional[Any] = None) -> str:
    """The first `limit` tokens of document `number`: as text where there is a tokenizer, else their ids.

    Raises:
        UsageError: there is no such document.
    """
    if not 0 <= number < store.num_documents:
        raise UsageError(f"{store.path} has no document {number}: expected 0 to {store.num_documents - 1}.")
    start, end = map(int, document_starts(store, number, number + 1))
    ids = [int(token) for token in store.tokens[start : min(end, start + limit)]]
    text = " ".join(map(str, ids)) if tokenizer is None else tokenizer.decode(ids)
    more = f", first {limit:,}" if end - start > limit else ""
    return f"--- document {number:,} ({end - start:,} tokens{more})\n{text}"


def count_dataset(prefix: str) -> dict:
    """Counts of dataset `prefix` and facts of its sidecar, read from its index alone.

    Raises:
        UsageError: it cannot be opened.
    """
    store, facts = open_any(prefix, ignore_modes=True), read_sidecar(prefix) or {}
    return {
        "prefix": prefix,
        "documents": store.num_documents,
        "sequences": len(store),
        "tokens": len(store.tokens),
        "bytes": store.tokens.nbytes,
        "dtype": store.dtype.name,
        "format": format_of(prefix),
        "vocab_size": facts.get("vocab_size"),
        "max_token_id": facts.get("max_token_id"),
        "tokenizer_sha256": facts.get("tokenizer_sha256"),
    }


def table(counts: Sequence[dict]) -> str:
    """`counts` of datasets as rows, and their sums with the share of each in all tokens."""
    total = {name: sum(row[name] for row in counts) for name in ("documents", "sequences", "tokens", "bytes")}
    rows = [["documents", "sequences", "tokens", "share", "bytes", "type", "vocabulary", "tokenizer", "dataset"]]
    for row in counts:
        rows.append(
            [
                *(f"{row[name]:,}" for name in ("documents", "sequences", "tokens")),
                f"{row['tokens'] / total['tokens']:.1%}",
                f"{row['bytes']:,}",
                row["dtype"],
                f"{row['vocab_size'] or '-'}",
                (row["tokenizer_sha256"] or "-")[:8],
                row["prefix"],
            ]
        )
    sums = [f"{total[name]:,}" for name in ("documents", "sequences", "tokens")]
    rows.append([*sums, "100.0%", f"{total['bytes']:,}", "", "", "", "all"])
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    right = 5
    return "\n".join(
        "  ".join(
            cell.rjust(width) if place < right else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    )


__all__ = ["count_dataset", "describe", "sample_documents", "show_document", "table"]
