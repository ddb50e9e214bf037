"""SentencePiece models, run by the `sentencepiece` library."""

from __future__ import annotations

import re
from typing import FrozenSet, Iterable, List, Mapping, Optional, Sequence

from .base import AddedToken, Backend, batch_threads

# A protocol-buffer message appended to another overrides its fields: normalizer_spec (3) { add_dummy_prefix (3) = 0 }
_NO_PREFIX = b"\x1a\x02\x18\x00"


class SentencePieceBackend(Backend):
    """A SentencePiece model with added tokens, which are looked for in the text first.

    `legacy` (the key of tokenizer_config.json): the text after an added token begins anew, with the mark of a word.
    """

    def __init__(self, name: str, content: bytes, added: Mapping[int, AddedToken], legacy: bool = True):
        import sentencepiece

        self.files = {name: content}
        self._model = sentencepiece.SentencePieceProcessor(model_proto=content)
        self._bare = sentencepiece.SentencePieceProcessor(model_proto=content + _NO_PREFIX)
        self.vocab_size = self._model.get_piece_size()
        self._added = {token.content: index for index, token in added.items()}
        self._contents = {index: content for content, index in self._added.items()}
        self.size = max([self.vocab_size, *(1 + index for index in self._contents)])
        self._legacy = legacy
        choices = sorted(self._added, key=len, reverse=True)
        self._finder = re.compile("(" + "|".join(map(re.escape, choices)) + ")") if choices else None

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
        return model.encode(list(texts), num_threads=batch_threads())

    def decode(self, ids: Iterable[int], leave_out: FrozenSet[int]) -> str:
        parts: List[str] = []
        run: List[int] = []
        for index in ids:
            if index in leave_out:
                continue
            content = self._written_out(index)
            if content is None:
                if 0 <= index < self.vocab_size:
                    run.append(index)
                continue
            parts += [self._model.decode(run), content]
            run = []
        return "".join([*parts, self._model.decode(run)])

    def _written_out(self, index: int) -> Optional[str]:
        """The text of an id that the library would decode to nothing."""
        if index in self._contents:
            return self._contents[index]
        control = 0 <= index < self.vocab_size and self._model.is_control(index)
        return self._model.id_to_piece(index) if control else None

    def token_to_id(self, token: str) -> Optional[int]:
        if token in self._added:
            return self._added[token]
        index = self._model.piece_to_id(token)
        return index if self._model.id_to_piece(index) == token else None

    def id_to_token(self, index: int) -> Optional[str]:
        if index in self._contents:
            return self._contents[index]
        return self._model.id_to_piece(index) if 0 <= index < self.vocab_size else None


def is_sentencepiece(content: bytes) -> bool:
    """Whether a .model file is a SentencePiece model; a tiktoken file is lines of base64 and a number."""
    return re.match(rb"[A-Za-z0-9+/=]+ \d+\r?\n", content) is None
