"""From a raw record to the texts that become sequences: JSON, cleaning, sentences, Chinese words."""

from __future__ import annotations

import importlib
import json
import re
import unicodedata
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Literal, NamedTuple, Optional, Union

from paddlenlp.data.text_sources import Chunk, Problem
from paddlenlp.utils.errors import UsageError

_SENTENCE_END = re.compile(r"[.!?][\"')\]]*(?=\s+[\"'(\[]?[A-Z0-9])")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b\ufeff]")
UNICODE_FORMS = ("NFC", "NFKC")
WORD_CUTTERS = ("lac", "seg", "jieba")

Text = Union[str, List[str]]  # a text, or one given as words


@dataclass(frozen=True)
class TextOptions:
    """How records become texts.

    Attributes:
        json_key: key of the text in a JSON object.
        max_repeated_len: a character repeated more often than this in a row is written once.
        split_sentences: make each sentence a text of its own: after . ! ? before a capital or digit, or, with
            `chinese`, at the ends of lines.
        chinese: the text is Chinese.
        cn_whole_word_segment: give each text as words, so that no token reaches across a border of words.
        cn_seg_func: what finds the words; "jieba", or "lac" or "seg" of the library LAC.
        cn_splited: the words are already set apart by `cn_split_dimer`.
        cn_split_dimer: what stands between words that are already set apart.
        unicode_normalization: "NFC" or "NFKC" (Unicode Standard Annex 15); None leaves the characters as they are.
        remove_control_characters: drop control characters other than tab and line ends, zero-width spaces and marks of
            byte order.
        min_doc_length: a document with fewer characters, once cleaned and stripped, is left out.
        remove_duplicates: of documents with the same text, once cleaned, only the first is kept.
    """

    json_key: str = "text"
    max_repeated_len: int = 100
    split_sentences: bool = False
    chinese: bool = False
    cn_whole_word_segment: bool = False
    cn_seg_func: str = "jieba"
    cn_splited: bool = False
    cn_split_dimer: str = " "
    unicode_normalization: Optional[Literal["NFC", "NFKC"]] = None
    remove_control_characters: bool = False
    min_doc_length: int = 0
    remove_duplicates: bool = False

    def check(self) -> None:
        """Refuse what cannot be done.

        Raises:
            UsageError: an unusable value, or the library that finds words is not installed.
        """
        if self.max_repeated_len < 1:
            raise UsageError(f"max_repeated_len is {self.max_repeated_len}; expected at least 1")
        if self.min_doc_length < 0:
            raise UsageError(f"min_doc_length is {self.min_doc_length}; expected 0 or more characters")
        if self.unicode_normalization not in (None, *UNICODE_FORMS):
            raise UsageError(
                f"unicode_normalization is {self.unicode_normalization!r}; expected {' or '.join(UNICODE_FORMS)}"
            )
        if self.cn_splited and not self.cn_split_dimer:
            raise UsageError("cn_split_dimer is empty; expected what stands between two words")
        if self.cn_whole_word_segment and not self.cn_splited:
            word_cutter(self.cn_seg_func)


class Documents(NamedTuple):
    """What became of the records of a chunk.

    Attributes:
        texts: of each document that is kept.
        problems: records that could not be read.
        short: documents left out because they are shorter than `min_doc_length`.
    """

    texts: List[List[Text]]
    problems: List[Problem]
    short: int


class TextReader:
    """Turns chunks of raw records into documents, each a list of texts."""

    def __init__(self, options: TextOptions):
        self.options = options
        self._repeated = re.compile(rf"(.)\1{{{options.max_repeated_len},}}")
        self._cut: Optional[Callable[[str], List[str]]] = None

    def documents(self, chunk: Chunk) -> Documents:
        """The documents of a chunk; those without text are left out and not counted."""
        found: List[List[Text]] = []
        problems = list(chunk.problems)
        short = 0
        for line, content in chunk.records:
            try:
                text = self.cleaned(self._text_of(content, chunk.is_json))
            except ValueError as error:
                problems.append(Problem(chunk.path, line, str(error)))
                continue
            if len(text) < self.options.min_doc_length:
                short += 1
                continue
            texts = self.texts(text)
            if texts:
                found.append(texts)
        return Documents(found, sorted(problems, key=lambda problem: problem.line), short)

    def _text_of(self, content: bytes, is_json: bool) -> str:
        try:
            text: Any = json.loads(content) if is_json else content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"not UTF-8: byte {error.object[error.start]:#04x} at offset {error.start}") from None
        except ValueError as error:
            raise ValueError(f"not JSON: {error}") from None
        except RecursionError:
            raise ValueError("not JSON this reads: nested too deep") from None
        if is_json:
            text = self._value(text)
        if not text.isascii() and re.search("[\ud800-\udfff]", text):
            raise ValueError("holds half of a surrogate pair, which is no character")
        return text

    def _value(self, item: Any) -> str:
        if not isinstance(item, dict):
            raise ValueError(f"expected a JSON object, found {type(item).__name__}")
        key = self.options.json_key
        if key not in item:
            raise ValueError(f"no key {key!r}; found {', '.join(map(repr, list(item)[:8])) or 'none'}")
        if not isinstance(item[key], str):
            raise ValueError(f"{key!r} should hold a string, found {type(item[key]).__name__}")
        return item[key]

    def cleaned(self, text: str) -> str:
        """The text of one document after all that the options say about characters."""
        if self.options.unicode_normalization and not text.isascii():
            text = unicodedata.normalize(self.options.unicode_normalization, text)
        if self.options.remove_control_characters:
            text = _CONTROL.sub("", text)
        return self._repeated.sub(r"\1", text).strip()

    def texts(self, text: str) -> List[Text]:
        """A cleaned text cut into sentences or words as the options say, empty ones left out."""
        if not self.options.split_sentences:
            parts = [text]
        else:
            parts = text.split("\n") if self.options.chinese else _sentences(text)
        stripped = (part.strip() for part in parts)
        return [self._words(part) if self.options.cn_whole_word_segment else part for part in stripped if part]

    def _words(self, text: str) -> List[str]:
        if self.options.cn_splited:
            return [word for word in text.split(self.options.cn_split_dimer) if word]
        if self._cut is None:  # made where it is used: what finds words cannot be sent to other processes
            self._cut = word_cutter(self.options.cn_seg_func)
        return self._cut(text)

    def __getstate__(self) -> Dict[str, Any]:
        return {**self.__dict__, "_cut": None}


def _sentences(text: str) -> List[str]:
    ends = [found.end() for found in _SENTENCE_END.finditer(text)]
    return [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)])]


def word_cutter(name: str) -> Callable[[str], List[str]]:
    """What cuts a Chinese text into words.

    Args:
        name: "jieba"; "lac" or "seg" for lexical analysis or segmentation by the library LAC.

    Raises:
        UsageError: another name, or the library is not installed.
    """
    if name not in WORD_CUTTERS:
        raise UsageError(f"cn_seg_func is {name!r}; expected {', '.join(WORD_CUTTERS)}")
    library = "jieba" if name == "jieba" else "LAC"
    try:
        module = importlib.import_module(library)
    except ImportError:
        raise UsageError(
            f"cn_seg_func {name} needs `pip install {library}`; cn_splited reads text whose words are set apart"
        ) from None
    if name == "jieba":
        module.setLogLevel("WARNING")
        return module.lcut
    model = module.LAC(mode=name)
    return (lambda text: model.run(text)[0]) if name == "lac" else model.run


__all__ = ["UNICODE_FORMS", "WORD_CUTTERS", "Documents", "Text", "TextOptions", "TextReader", "word_cutter"]
