"""From a raw record to the texts that become sequences: JSON, cleaning, sentences, Chinese words."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, List, Tuple, Union

from paddlenlp.data.text_sources import Chunk, Problem
from paddlenlp.utils.errors import UsageError

_SENTENCE_END = re.compile(r"[.!?][\"')\]]*(?=\s+[\"'(\[]?[A-Z0-9])")

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
        cn_seg_func: what finds the words; "jieba".
        cn_splited: the words are already set apart by `cn_split_dimer`.
        cn_split_dimer: what stands between words that are already set apart.
    """

    json_key: str = "text"
    max_repeated_len: int = 100
    split_sentences: bool = False
    chinese: bool = False
    cn_whole_word_segment: bool = False
    cn_seg_func: str = "jieba"
    cn_splited: bool = False
    cn_split_dimer: str = " "

    def check(self) -> None:
        """Refuse what cannot be done.

        Raises:
            UsageError: an unusable value, or jieba is needed and not installed.
        """
        if self.max_repeated_len < 1:
            raise UsageError(f"max_repeated_len is {self.max_repeated_len}; expected at least 1")
        if not self.cn_whole_word_segment or self.cn_splited:
            return
        if self.cn_seg_func != "jieba":
            raise UsageError(
                f"cn_seg_func {self.cn_seg_func!r} is not offered: use jieba, or cn_splited for split text"
            )
        _jieba()


class TextReader:
    """Turns chunks of raw records into documents, each a list of texts."""

    def __init__(self, options: TextOptions):
        self.options = options
        self._repeated = re.compile(rf"(.)\1{{{options.max_repeated_len},}}")

    def documents(self, chunk: Chunk) -> Tuple[List[List[Text]], List[Problem]]:
        """The documents of a chunk that have text, and the records that could not be read."""
        found: List[List[Text]] = []
        problems = list(chunk.problems)
        for line, content in chunk.records:
            try:
                texts = self.texts(self._text_of(content, chunk.is_json))
            except ValueError as error:
                problems.append(Problem(chunk.path, line, str(error)))
                continue
            if texts:
                found.append(texts)
        return found, sorted(problems, key=lambda problem: problem.line)

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

    def texts(self, text: str) -> List[Text]:
        """The texts of one document: cleaned, cut into sentences or words as the options say, empty ones left out."""
        text = self._repeated.sub(r"\1", text)
        if not self.options.split_sentences:
            parts = [text]
        else:
            parts = text.split("\n") if self.options.chinese else _sentences(text)
        stripped = (part.strip() for part in parts)
        return [self._words(part) if self.options.cn_whole_word_segment else part for part in stripped if part]

    def _words(self, text: str) -> List[str]:
        if self.options.cn_splited:
            return [word for word in text.split(self.options.cn_split_dimer) if word]
        return _jieba().lcut(text)


def _sentences(text: str) -> List[str]:
    ends = [found.end() for found in _SENTENCE_END.finditer(text)]
    return [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)])]


def _jieba() -> Any:
    try:
        import jieba
    except ImportError:
        raise UsageError("Chinese word segmentation needs `pip install jieba`") from None
    jieba.setLogLevel("WARNING")
    return jieba


__all__ = ["Text", "TextOptions", "TextReader"]
