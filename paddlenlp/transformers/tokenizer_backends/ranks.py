"""Files of base64 tokens with ranks, run by the `tiktoken` library."""

from __future__ import annotations

import base64
import binascii
import re
import unicodedata
from typing import Dict, FrozenSet, Iterable, List, Mapping, Optional, Sequence

from .base import AddedToken, Backend, batch_threads
from .families import Family

# The library's recursion overflows on very long texts, so they are cut where every pattern has a boundary anyway:
# before a space between the end of one word and a letter.
_LONGEST = 100_000
_CUT = re.compile(r"(?<=\S)(?= [^\W\d_])")


class RanksBackend(Backend):
    """Byte-pair encoding by rank; tokens are written with GPT-2's printable characters for bytes."""

    def __init__(self, name: str, content: bytes, added: Mapping[int, AddedToken], family: Family):
        import tiktoken

        self.files = {name: content}
        ranks = read_ranks(name, content)
        special = {token: len(ranks) + i for i, token in enumerate(family.appended)}
        for index, token in added.items():
            special = {text: other for text, other in special.items() if other != index}
            special[token.content] = index
        self._encoding = tiktoken.Encoding(
            name=name, pat_str=family.pattern, mergeable_ranks=ranks, special_tokens=special
        )
        self._special_ids = special
        self._special = {index: token for token, index in special.items()}
        self._normalize = family.normalize
        self._plain_special = False
        self.vocab_size = len(ranks)
        self.size = 1 + max([*ranks.values(), *special.values()])

    def split_special(self) -> None:
        self._plain_special = True

    def encode_batch(self, texts: Sequence[str], continued: bool = False) -> List[List[int]]:
        if self._normalize:
            texts = [unicodedata.normalize(self._normalize, text) for text in texts]  # type: ignore[arg-type]
        parts = [_cut(text) for text in texts]
        flat = [part for found in parts for part in found]
        if self._plain_special:
            ids = iter(self._encoding.encode_ordinary_batch(flat, num_threads=batch_threads()))
        else:
            ids = iter(self._encoding.encode_batch(flat, num_threads=batch_threads(), allowed_special="all"))
        return [[i for _ in found for i in next(ids)] for found in parts]

    def decode(self, ids: Iterable[int], leave_out: FrozenSet[int]) -> str:
        pieces = [self._bytes(index) for index in ids if index not in leave_out]
        return b"".join(piece for piece in pieces if piece is not None).decode("utf-8", errors="replace")

    def _bytes(self, index: int) -> Optional[bytes]:
        try:
            return self._encoding.decode_single_token_bytes(index)
        except (KeyError, OverflowError):
            return None

    def token_to_id(self, token: str) -> Optional[int]:
        if token in self._special_ids:
            return self._special_ids[token]
        try:
            return self._encoding.encode_single_token(bytes(_BYTE_OF[character] for character in token))
        except KeyError:
            return None

    def id_to_token(self, index: int) -> Optional[str]:
        if index in self._special:
            return self._special[index]
        content = self._bytes(index)
        return None if content is None else "".join(_CHARACTER_OF[byte] for byte in content)


def read_ranks(name: str, content: bytes) -> Dict[bytes, int]:
    """Token bytes -> rank of a tiktoken file.

    Raises:
        ValueError: a line is not base64 and a number; names file and line.
    """
    ranks: Dict[bytes, int] = {}
    for number, line in enumerate(content.splitlines(), 1):
        if line:
            try:
                token, rank = line.split()
                ranks[base64.b64decode(token, validate=True)] = int(rank)
            except (ValueError, binascii.Error):
                raise ValueError(
                    f"{name}:{number}: expected a base64 token and its rank, found {line[:40]!r}"
                ) from None
    return ranks


def _cut(text: str) -> List[str]:
    parts = []
    start = 0
    while len(text) - start > _LONGEST:
        found = _CUT.search(text, start + _LONGEST // 2, start + _LONGEST)
        end = found.start() if found else start + _LONGEST
        parts.append(text[start:end])
        start = end
    return [*parts, text[start:]]


def _byte_characters() -> Dict[int, str]:
    """GPT-2's alphabet: printable Latin-1 bytes stand for themselves, the others for characters from U+0100 on."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in shown]
    return {**{byte: chr(byte) for byte in shown}, **{byte: chr(256 + i) for i, byte in enumerate(others)}}


_CHARACTER_OF = _byte_characters()
_BYTE_OF = {character: byte for byte, character in _CHARACTER_OF.items()}
