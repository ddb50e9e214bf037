"""tokenizer.json, or vocab.json with merges.txt, run by the `tokenizers` library."""

from __future__ import annotations

import json
from typing import Any, Dict, FrozenSet, Iterable, List, Mapping, Optional, Sequence, Tuple

import tokenizers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from .base import AddedToken, Backend
from .families import Family


class FastBackend(Backend):
    """Any pipeline of the `tokenizers` library; batches run on its threads.

    Special tokens that are `appended` and not there yet follow the last token.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        files: Dict[str, bytes],
        added: Mapping[int, AddedToken],
        appended: Sequence[str] = (),
    ):
        self.files = files
        self._tokenizer = tokenizer
        self._bare: Optional[Tokenizer] = None
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.vocab_size = tokenizer.get_vocab_size(with_added_tokens=False)
        self._add(added)
        missing = [token for token in appended if tokenizer.token_to_id(token) is None]
        tokenizer.add_special_tokens([tokenizers.AddedToken(token, normalized=False) for token in missing])
        self.size = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        self.affixes = self._affixes()

    @classmethod
    def from_json(cls, name: str, content: bytes, added: Mapping[int, AddedToken]) -> FastBackend:
        """From the content of a tokenizer.json."""
        return cls(Tokenizer.from_buffer(content), {name: content}, added)

    @classmethod
    def from_merges(cls, files: Dict[str, bytes], added: Mapping[int, AddedToken], family: Family) -> FastBackend:
        """Byte-level BPE from vocab.json and merges.txt, the words cut as `family` says."""
        vocab = json.loads(files["vocab.json"])
        lines = files["merges.txt"].decode("utf-8").replace("\r\n", "\n").split("\n")
        pairs = (line.split(" ") for line in lines if line and not line.startswith("#version"))
        merges = [(first, second) for first, second in pairs]
        made = Tokenizer(models.BPE(vocab, merges))
        if family.normalize:
            made.normalizer = getattr(normalizers, family.normalize)()
        made.pre_tokenizer = byte_level(family.pattern)
        made.decoder = decoders.ByteLevel()
        return cls(made, files, added, family.appended)

    def _add(self, added: Mapping[int, AddedToken]) -> None:
        """Register added tokens under the ids they claim."""
        present = self._tokenizer.get_added_tokens_decoder()
        for index, token in sorted(added.items()):
            if index in present and present[index].content == token.content:
                continue
            options = {name: getattr(token, name) for name in ("single_word", "lstrip", "rstrip", "normalized")}
            made = tokenizers.AddedToken(token.content, special=token.special, **options)
            (self._tokenizer.add_special_tokens if token.special else self._tokenizer.add_tokens)([made])
            got = self._tokenizer.token_to_id(token.content)
            if got != index:
                raise ValueError(f"added token {token.content!r} claims id {index}, but the vocabulary gives it {got}")

    def _affixes(self) -> Tuple[List[int], List[int]]:
        plain = self._tokenizer.encode("a", add_special_tokens=False).ids
        whole = self._tokenizer.encode("a", add_special_tokens=True).ids
        for start in range(len(whole) - len(plain) + 1):
            if whole[start : start + len(plain)] == plain:
                return whole[:start], whole[start + len(plain) :]
        return [], []

    def encode_batch(self, texts: Sequence[str], continued: bool = False) -> List[List[int]]:
        tokenizer = self._without_prefix() if continued else self._tokenizer
        return [found.ids for found in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def split_special(self) -> None:
        self._tokenizer.encode_special_tokens = True

    def _without_prefix(self) -> Tokenizer:
        if self._bare is None:
            self._bare = Tokenizer.from_str(json.dumps(_drop_prefix(json.loads(self._tokenizer.to_str()))))
            self._bare.encode_special_tokens = self._tokenizer.encode_special_tokens
        return self._bare

    def decode(self, ids: Iterable[int], leave_out: FrozenSet[int]) -> str:
        return self._tokenizer.decode([i for i in ids if i not in leave_out], skip_special_tokens=False)

    def token_to_id(self, token: str) -> Optional[int]:
        return self._tokenizer.token_to_id(token)

    def id_to_token(self, index: int) -> Optional[str]:
        return self._tokenizer.id_to_token(index)


def byte_level(pattern: str) -> pre_tokenizers.PreTokenizer:
    """Words cut by `pattern`, their bytes written as printable characters."""
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _drop_prefix(node: Any) -> Any:
    """A pipeline's JSON without the steps that mark the beginning of a text."""
    if isinstance(node, list):
        return [_drop_prefix(item) for item in node if not (isinstance(item, dict) and item.get("type") == "Prepend")]
    if not isinstance(node, dict):
        return node
    changed: Dict[str, Any] = {"add_prefix_space": False} if "add_prefix_space" in node else {}
    if node.get("type") == "Metaspace":
        changed = {"prepend_scheme": "never"}
    kept = {key: value for key, value in node.items() if key in ("model", "added_tokens", "decoder")}
    return {key: kept[key] if key in kept else _drop_prefix(value) for key, value in {**node, **changed}.items()}
