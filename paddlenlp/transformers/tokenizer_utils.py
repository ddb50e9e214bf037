"""The tokenizer every model uses: a vocabulary run by its own library, with the special tokens its files declare."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Union

from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.files import atomic_path, atomic_write_json, parse_json
from paddlenlp.utils.log import logger

from .tokenizer_backends import OTHER_NAMES, VOCABULARY_FILES, AddedToken, OpenVocabulary
from .tokenizer_backends.families import Family

CONFIG_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "config.json")
TEMPLATE_FILES = ("chat_template.json", "chat_template.jinja")
ROLES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
OPTIONS = (
    "add_bos_token",
    "add_eos_token",
    "model_max_length",
    "padding_side",
    "split_special_tokens",
    "chat_template",
)
NO_LIMIT = int(1e30)  # `model_max_length` of a tokenizer that names none, as in Hugging Face's files


def _role(name: str) -> property:
    return property(lambda self: self._special.get(name), doc=f"The {name} or None.")


def _role_id(name: str) -> property:
    return property(lambda self: self._id_of(self._special.get(name)), doc=f"The id of the {name} or None.")


class PretrainedTokenizer:
    """Text to ids and back.

    Made by `from_pretrained`. The library that runs the vocabulary is told from the files (tokenizer.json first);
    tokenizer_config.json, special_tokens_map.json and added_tokens.json say which tokens have which role.

    Args:
        files: name -> content of the files of its folder (the names in VOCABULARY_FILES, CONFIG_FILES, TEMPLATE_FILES).
        name_or_path: where they come from.
        overrides: values for keys of tokenizer_config.json: any of ROLES and OPTIONS.

    Raises:
        UsageError: no vocabulary among the files, or one that cannot be read.
    """

    bos_token, bos_token_id = _role("bos_token"), _role_id("bos_token")
    eos_token, eos_token_id = _role("eos_token"), _role_id("eos_token")
    unk_token, unk_token_id = _role("unk_token"), _role_id("unk_token")
    pad_token, pad_token_id = _role("pad_token"), _role_id("pad_token")
    sep_token, sep_token_id = _role("sep_token"), _role_id("sep_token")
    cls_token, cls_token_id = _role("cls_token"), _role_id("cls_token")
    mask_token, mask_token_id = _role("mask_token"), _role_id("mask_token")

    def __init__(self, files: Mapping[str, bytes], name_or_path: str = "", **overrides: Any):
        self.name_or_path = name_or_path
        self._files, self._overrides = dict(files), overrides
        self.init_kwargs = {**self._json(files, "tokenizer_config.json"), **overrides}
        self._map = self._json(files, "special_tokens_map.json")
        named = self.init_kwargs.get("tokenizer_class") or getattr(type(self), "tokenizer_class", None)
        opened = OpenVocabulary(
            {name: content for name, content in files.items() if name in VOCABULARY_FILES},
            {**self.init_kwargs, "tokenizer_class": named},
            self._json(files, "config.json").get("model_type"),
            name_or_path,
        )
        self._outside = self._added_tokens(self._json(files, "added_tokens.json"))
        self._open(opened)
        self.model_max_length = int(self.init_kwargs.get("model_max_length") or NO_LIMIT)
        self.padding_side: str = self.init_kwargs.get("padding_side") or "left"
        self.chat_template = self.init_kwargs.get("chat_template")
        self._fingerprint: Optional[str] = None

    def _open(self, opened: OpenVocabulary) -> None:
        """Open the vocabulary, find the roles in it, and see what belongs around a text."""
        declared = self._declared(opened.family)
        self._class_name = opened.class_name
        self._backend = opened.backend(self._outside)
        self._special: Dict[str, str] = {}
        for role, token in declared.items():
            if self._backend.token_to_id(token) is not None:
                self._special[role] = token
            elif role in self.init_kwargs or role in self._map:
                logger.warning(f"{self.name_or_path}: {role} {token!r} is not in the vocabulary; there is none then")
        if opened.kind in ("sentencepiece", "vocab.json"):  # these files do not make them stand out in a text
            found = ((self._id_of(token), token) for token in self._special.values())
            roles = {index: AddedToken(token) for index, token in found if index is not None}
            self._backend = opened.backend({**roles, **self._outside})
        if self.init_kwargs.get("split_special_tokens"):
            self._backend.split_special()
        family = Family() if opened.kind == "tokenizer.json" else opened.family
        self._affixes = self._find_affixes(family)
        self._appended = family.appended
        self._adds_bos = family.add_bos and "add_bos_token" not in self.init_kwargs

    def __reduce__(self) -> Any:
        return _remake, (type(self), self._files, self.name_or_path, self._overrides)

    # --- reading what the files declare

    def _json(self, files: Mapping[str, bytes], name: str) -> Dict[str, Any]:
        try:
            value = parse_json(files.get(name, b"{}"))
        except ValueError as error:
            raise UsageError(f"{Path(self.name_or_path, name)}: not JSON: {error}") from None
        if not isinstance(value, dict):
            raise UsageError(f"{Path(self.name_or_path, name)}: expected a JSON object, found {type(value).__name__}")
        return value

    def _added_tokens(self, by_token: Mapping[str, int]) -> Dict[int, AddedToken]:
        """Tokens declared by `added_tokens_decoder` or added_tokens.json, by id."""
        known = {item.name for item in fields(AddedToken)}
        found = {index: AddedToken(token) for token, index in by_token.items()}
        for index, item in (self.init_kwargs.get("added_tokens_decoder") or {}).items():
            found[int(index)] = AddedToken(**{key: value for key, value in item.items() if key in known})
        return found

    def _declared(self, family: Family) -> Dict[str, str]:
        """Role -> token: tokenizer_config.json first, then special_tokens_map.json, then what the class implies."""
        found: Dict[str, str] = {}
        for role in ROLES:
            for source in (self.init_kwargs, self._map, family.special):
                if role in source:
                    token = content_of(source[role])
                    if role not in self._overrides and (role, token) in family.corrected:
                        token = family.special[role]
                    if token:
                        found[role] = token
                    break
        return found

    def _find_affixes(self, family: Family) -> tuple[List[int], List[int]]:
        """Ids before and after a text: as `add_bos_token`, `add_eos_token` say, else as the vocabulary's files do, else
        as the family does."""
        before, after = (
            found or [index for index in map(self._id_of, tokens) if index is not None]
            for found, tokens in zip(self._backend.affixes, family.around)
        )
        add_bos = self.init_kwargs.get("add_bos_token", family.add_bos or None)
        add_eos = self.init_kwargs.get("add_eos_token")
        if add_bos is not None:
            before = [self.bos_token_id] if add_bos and self.bos_token_id is not None else []
        if add_eos is not None:
            after = [self.eos_token_id] if add_eos and self.eos_token_id is not None else []
        return before, after

    @classmethod
    def from_pretrained(cls, name_or_dir: Union[str, Path], **overrides: Any) -> PretrainedTokenizer:
        """The tokenizer of a local folder, or of a model's name on the hub.

        Args:
            name_or_dir: folder with the tokenizer's files, or a name that the hub knows.
            overrides: values for keys of tokenizer_config.json: any of ROLES and OPTIONS.

        Raises:
            UsageError: there is no such folder or name, or no readable tokenizer in it.
        """
        wrong = sorted(set(overrides) - {*ROLES, *OPTIONS})
        if wrong:
            raise TypeError(f"unknown tokenizer options {wrong}; known are {sorted([*ROLES, *OPTIONS])}")
        files = read_folder(name_or_dir)
        try:
            return cls(files, str(name_or_dir), **overrides)
        except UsageError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UsageError(f"{name_or_dir}: the tokenizer's files hold a value of the wrong kind: {error}") from error

    # --- sizes and roles

    @property
    def vocab_size(self) -> int:
        """Tokens of the vocabulary proper, without added tokens."""
        return self._backend.vocab_size

    def __len__(self) -> int:
        """One more than the largest id: the embedding rows a model needs."""
        return self._backend.size

    @property
    def special_tokens_map(self) -> Dict[str, str]:
        """Role -> token, for the roles this tokenizer has."""
        return dict(self._special)

    @property
    def all_special_tokens(self) -> List[str]:
        """Tokens with a role, added tokens declared special, and those that the family's files imply."""
        more = [token for token in map(content_of, self._extra_special()) if token]
        marked = [token.content for _, token in sorted(self._outside.items()) if token.special]
        return list(dict.fromkeys([*self._special.values(), *more, *marked, *self._appended]))

    @property
    def all_special_ids(self) -> List[int]:
        """Ids of `all_special_tokens`."""
        found = (self._id_of(token) for token in self.all_special_tokens)
        return [index for index in found if index is not None]

    def _extra_special(self) -> List[Any]:
        name = "additional_special_tokens"
        return self.init_kwargs.get(name) or self._map.get(name) or []

    def _id_of(self, token: Optional[str]) -> Optional[int]:
        return None if token is None else self._backend.token_to_id(token)

    # --- text to ids

    def encode_ids(self, text: str) -> List[int]:
        """Ids of a text, nothing added around them. Special tokens that stand in the text become their ids."""
        return self._backend.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> List[List[int]]:
        """`encode_ids` of every text, on the library's threads (one where TOKENIZERS_PARALLELISM=false)."""
        return self._backend.encode_batch(texts)

    def encode_words(self, words: Sequence[str]) -> List[int]:
        """Ids of a text given as words: no token reaches across a border of two words."""
        if not words:
            return []
        first, rest = self._backend.encode_batch(words[:1]), self._backend.encode_batch(words[1:], continued=True)
        return [index for found in (*first, *rest) for index in found]

    def __call__(
        self, text: Union[str, Sequence[str]], add_special_tokens: bool = True
    ) -> Dict[str, Union[List[int], List[List[int]]]]:
        """{"input_ids": ids} of a text or lists of ids of several, with the special tokens this tokenizer adds."""
        texts = [text] if isinstance(text, str) else list(text)
        before, after = self._affixes if add_special_tokens else ([], [])
        ids = [[*before, *found, *after] for found in self._backend.encode_batch(texts)]
        return {"input_ids": ids[0] if isinstance(text, str) else ids}

    def encode(self, text: str, add_special_tokens: bool = True) -> List[int]:
        """Ids of a text with the special tokens this tokenizer adds."""
        before, after = self._affixes if add_special_tokens else ([], [])
        return [*before, *self.encode_ids(text), *after]

    def tokenize(self, text: str) -> List[str]:
        """The tokens of a text, as the vocabulary writes them."""
        return self.convert_ids_to_tokens(self.encode_ids(text))

    def convert_tokens_to_ids(self, tokens: Union[str, Sequence[str]]) -> Any:
        """The id of a token, or ids of tokens; the unknown token's id (None if there is none) for one not known."""
        if isinstance(tokens, str):
            found = self._backend.token_to_id(tokens)
            return self.unk_token_id if found is None else found
        return [self.convert_tokens_to_ids(token) for token in tokens]

    def convert_ids_to_tokens(self, ids: Union[int, Sequence[int]]) -> Any:
        """The token of an id, or tokens of ids; None for an id that no token has."""
        if isinstance(ids, int):
            return self._backend.id_to_token(ids)
        return [self._backend.id_to_token(int(index)) for index in ids]

    # --- ids to text

    def decode(self, ids: Union[int, Iterable[int]], skip_special_tokens: bool = False) -> str:
        """The text of ids (any iterable of integers); ids that no token has are left out."""
        numbers = [ids] if isinstance(ids, int) else [int(index) for index in ids]
        known = [index for index in numbers if 0 <= index < len(self)]
        return self._backend.decode(known, frozenset(self.all_special_ids if skip_special_tokens else ()))

    def batch_decode(self, sequences: Iterable[Iterable[int]], skip_special_tokens: bool = False) -> List[str]:
        """`decode` of every sequence."""
        return [self.decode(ids, skip_special_tokens) for ids in sequences]

    # --- saving

    def fingerprint(self) -> str:
        """SHA-256 (hexadecimal) of what decides the ids: the vocabulary's files and the tokens added to them."""
        if self._fingerprint is None:
            digest = hashlib.sha256()
            for _, content in sorted(self._backend.files.items()):
                digest.update(hashlib.sha256(content).digest())
            added = sorted((index, token.content) for index, token in self._outside.items())
            digest.update(json.dumps([added, bool(self.init_kwargs.get("split_special_tokens"))]).encode())
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def save_pretrained(self, folder: Union[str, Path]) -> List[Path]:
        """Write the tokenizer's files to `folder`, vocabulary files byte for byte; returns the paths."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        written = []
        for name, content in self._files.items():
            if name not in CONFIG_FILES:
                with atomic_path(target / name) as partial:
                    partial.write_bytes(content)
                written.append(target / name)
        documents = {"tokenizer_config.json": self._saved_config(), "special_tokens_map.json": self._saved_map()}
        beyond = {token.content: index for index, token in sorted(self._outside.items()) if index >= self.vocab_size}
        if beyond:
            documents["added_tokens.json"] = beyond
        for name, value in documents.items():
            atomic_write_json(target / name, value)
            written.append(target / name)
        return written

    def _saved_config(self) -> Dict[str, Any]:
        saved = {**self._special, **self.init_kwargs, "tokenizer_class": self._class_name}
        saved.update((role, token) for role, token in self._special.items() if content_of(saved[role]) != token)
        if self._adds_bos:
            saved["add_bos_token"] = True
        if self._outside:
            saved["added_tokens_decoder"] = {str(i): asdict(token) for i, token in sorted(self._outside.items())}
        return saved

    def _saved_map(self) -> Dict[str, Any]:
        overridden = {role: token for role, token in self._special.items() if content_of(self._map.get(role)) != token}
        return {**self._map, **overridden}


def _remake(made: type, files: Mapping[str, bytes], name_or_path: str, overrides: Mapping[str, Any]) -> Any:
    return made(files, name_or_path, **overrides)


def content_of(token: Any) -> Optional[str]:
    """The text of a token written as a string or as {"content": ...}."""
    return token.get("content") if isinstance(token, dict) else token


def read_folder(name_or_dir: Union[str, Path]) -> Dict[str, bytes]:
    """Name -> content of a tokenizer's files in a folder or, by name, on the hub."""
    others = {other: name for name, listed in OTHER_NAMES.items() for other in listed}
    names = (*VOCABULARY_FILES, *others, *CONFIG_FILES, *TEMPLATE_FILES)
    folder = Path(name_or_dir).expanduser()
    if not folder.is_dir():
        from .hub import resolve_folder

        folder = Path(resolve_folder(name_or_dir, names))
    try:
        found = {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}
    except OSError as error:
        raise UsageError(f"{error.filename}: cannot be read: {error.strerror}") from None
    same = {others[name]: found.pop(name) for name in others if name in found}
    return {**same, **found}


__all__ = ["PretrainedTokenizer", "content_of", "read_folder"]
