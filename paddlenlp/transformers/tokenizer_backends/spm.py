"""SentencePiece models, run by the `sentencepiece` library."""

from __future__ import annotations

import re
import struct
from typing import AbstractSet, Dict, FrozenSet, Iterable, List, Mapping, Optional, Sequence, Tuple

from .base import AddedToken, Backend, batch_threads
from .families import Family

# A protocol-buffer message appended to another overrides its fields, or adds to those that repeat. The numbers are
# those of SentencePiece's sentencepiece_model.proto.
_NO_PREFIX = b"\x1a\x02\x18\x00"  # normalizer_spec (3) { add_dummy_prefix (3) = 0 }
_BYTE_FALLBACK = b"\x12\x03\x98\x02\x01"  # trainer_spec (2) { byte_fallback (35) = 1 }


class SentencePieceBackend(Backend):
    """A SentencePiece model with added tokens, which are looked for in the text first; the family may add to them,
    and pieces that stand for what the model can't read.

    Args:
        name, content: of the file.
        added: id -> token.
        family: what the tokenizer's class implies.
        legacy: (the key of tokenizer_config.json) the text after an added token begins anew, with the mark of a word.
        first_id: the id of the model's first piece.
    """

    def __init__(
        self,
        name: str,
        content: bytes,
        added: Mapping[int, AddedToken],
        family: Family,
        legacy: bool = True,
        first_id: int = 0,
    ):
        import sentencepiece

        self.files = {name: content}
        self._model = sentencepiece.SentencePieceProcessor(model_proto=content)
        if family.inserted and self._piece_id(family.inserted[0][0]) is None:
            content += _with_pieces(family.inserted)
            self._model = sentencepiece.SentencePieceProcessor(model_proto=content)
        self._bare = sentencepiece.SentencePieceProcessor(model_proto=content + _NO_PREFIX)
        self._first = first_id
        self.vocab_size = first_id + self._model.get_piece_size()
        self._stand_ins, self._legacy = family.stand_ins, legacy
        # A token such as "sop" is a part of words: in a text it is a part of one, and a piece like it is another token.
        words = {token for token in family.appended if token.isalnum()}
        self._added = self._ids_of(family.appended, words)
        self._added.update((token.content, index) for index, token in added.items())
        self._contents = {index: content for content, index in self._added.items()}
        self.size = max([self.vocab_size, *(1 + index for index in self._contents)])
        choices = sorted(self._added.keys() - words, key=len, reverse=True)
        self._finder = re.compile("(" + "|".join(map(re.escape, choices)) + ")") if choices else None

    def _piece_id(self, token: str) -> Optional[int]:
        """The model's own number of a piece; None if it has no such piece."""
        number = self._model.piece_to_id(token)
        return number if self._model.id_to_piece(number) == token else None

    def _ids_of(self, tokens: Sequence[str], words: AbstractSet[str]) -> Dict[str, int]:
        """The ids of pieces; those the model doesn't have, and `words`, follow its last one."""
        found = {token: self._piece_id(token) for token in tokens if token not in words}
        known = {token: self._first + number for token, number in found.items() if number is not None}
        missing = [token for token in tokens if token not in known]
        return {**known, **{token: self.vocab_size + place for place, token in enumerate(missing)}}

    def split_special(self) -> None:
        self._finder = None

    def encode_batch(self, texts: Sequence[str], continued: bool = False) -> List[List[int]]:
        if self._finder is None or not any(self._finder.search(text) for text in texts):
            return self._run(texts, continued)
        return [self._encode_parts(self._finder.split(text), continued) for text in texts]

    def _encode_parts(self, parts: List[str], continued: bool) -> List[int]:
        """Ids of plain text (even positions) and added tokens (odd positions)."""
        found: List[int] = []
        for position, part in enumerate(parts):
            if position % 2:
                found.append(self._added[part])
            elif part:
                found += self._run([part], continued or (position > 0 and not self._legacy))[0]
        return found

    def _run(self, texts: Sequence[str], continued: bool) -> List[List[int]]:
        model = self._bare if continued else self._model
        found = model.encode([self._with_stand_ins(text) for text in texts], num_threads=batch_threads())
        return [[self._first + number for number in numbers] for numbers in found] if self._first else found

    def _with_stand_ins(self, text: str) -> str:
        for piece, stand_in in self._stand_ins:
            text = text.replace(piece, stand_in)
        return text

    def _text(self, ids: List[int]) -> str:
        text = self._model.decode([index - self._first for index in ids])
        for piece, stand_in in self._stand_ins:
            text = text.replace(stand_in, piece)
        return text

    def decode(self, ids: Iterable[int], leave_out: FrozenSet[int]) -> str:
        parts: List[str] = []
        run: List[int] = []
        for index in ids:
            if index in leave_out:
                continue
            content = self._written_out(index)
            if content is None:
                if self._first <= index < self.vocab_size:
                    run.append(index)
                continue
            parts += [self._text(run), content]
            run = []
        return "".join([*parts, self._text(run)])

    def _written_out(self, index: int) -> Optional[str]:
        """The text of an id that the library would decode to nothing."""
        if index in self._contents:
            return self._contents[index]
        number = index - self._first
        control = self._first <= index < self.vocab_size and self._model.is_control(number)
        return self._model.id_to_piece(number) if control else None

    def token_to_id(self, token: str) -> Optional[int]:
        if token in self._added:
            return self._added[token]
        number = self._piece_id(token)
        return None if number is None else self._first + number

    def id_to_token(self, index: int) -> Optional[str]:
        if index in self._contents:
            return self._contents[index]
        return self._model.id_to_piece(index - self._first) if self._first <= index < self.vocab_size else None


def _with_pieces(pieces: Sequence[Tuple[str, int]]) -> bytes:
    """What to append to a model for further (piece, type), of score 0, and bytes for characters it doesn't know."""
    found = []
    for piece, kind in pieces:
        text = piece.encode()
        fields = bytes((0x0A, len(text))) + text + b"\x15" + struct.pack("<f", 0.0) + bytes((0x18, kind))
        found.append(bytes((0x0A, len(fields))) + fields)  # pieces (1) { piece (1), score (2), type (3) }
    return b"".join(found) + _BYTE_FALLBACK


def is_sentencepiece(content: bytes) -> bool:
    """Whether a .model file is a SentencePiece model; a tiktoken file is lines of base64 and a number."""
    return re.match(rb"[A-Za-z0-9+/=]+ \d+\r?\n", content) is None
