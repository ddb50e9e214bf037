"""Chinese text with its words set apart: a sentence a line, an empty line between documents.

The rules are those of the reference's `words_segmentation.py`: a run of one of the marks below is written once, and a
sentence ends after a full stop, question mark, semicolon or exclamation mark.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, List, Sequence, Union

from paddlenlp.data.file_pool import map_files, targets_in
from paddlenlp.data.preprocess_text import TextOptions, TextReader, word_cutter
from paddlenlp.data.text_sources import Problem, find_text_files, kind_of, read_chunks
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.files import atomic_path

DATA_FORMATS = {"jsonl": ("text", ".jsonl"), "wudao": ("content", ".json")}
"""Name -> key of the text in a record, kind of the files."""

_MARKS = re.compile(r"([\n。?？ ;；！!])\1*[ ]*")
_SENTENCE_END = re.compile(r"(?<=[。?？;；!！])")
_ANY_LENGTH = 1 << 30


@dataclass(frozen=True)
class Segmented:
    """What became of one file: documents written, and what could not be read; none if `target` was there before."""

    target: Path
    documents: int
    problems: List[Problem]
    kept: bool = False


@dataclass(frozen=True)
class Segmenter:
    """Writes the documents of a file with their words set apart by spaces.

    Attributes:
        json_key: key of the text in a record.
        cn_seg_func: what finds words: "jieba", "lac" or "seg".
    """

    json_key: str = "text"
    cn_seg_func: str = "jieba"

    def __call__(self, source: Path, target: Path) -> Segmented:
        """Write `target`, which appears when it is whole; one that is there stays as it is."""
        if target.exists():
            return Segmented(target, 0, [], kept=True)
        cut = word_cutter(self.cn_seg_func)
        reader = TextReader(TextOptions(json_key=self.json_key, max_repeated_len=_ANY_LENGTH))
        documents, problems = 0, []
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(target) as partial, open(partial, "w", encoding="utf-8", newline="\n") as file:
            for chunk in read_chunks([source]):
                found = reader.documents(chunk)
                problems += found.problems
                for (text,) in found.texts:
                    file.write(segment(str(text), cut) + "\n")
                documents += len(found.texts)
        return Segmented(target, documents, problems)


def segment(text: str, cut: Callable[[str], Sequence[str]]) -> str:
    """The sentences of `text`, a line each, words set apart by spaces as `cut` finds them."""
    text = _MARKS.sub(r"\1", text)
    lines = (line for sentence in _SENTENCE_END.split(text) for line in sentence.split("\n"))
    return "".join(" ".join(cut(line)) + "\n" for line in lines if line)


def segment_files(
    inputs: Union[str, Sequence[str]],
    output: Path,
    data_format: str = "jsonl",
    cn_seg_func: str = "jieba",
    *,
    workers: int = 1,
    log_interval: int = 1,
) -> List[Segmented]:
    """Write a text file into folder `output` for each file of records in `inputs`.

    Args:
        inputs: files, folders or patterns.
        data_format: a name in DATA_FORMATS.
        workers: processes.
        log_interval: files between two lines of progress off a terminal.

    Raises:
        UsageError: there are no such files, or the library that finds words is missing.
    """
    key, kind = DATA_FORMATS[data_format]
    word_cutter(cn_seg_func)
    files = [path for path in find_text_files(inputs)[0] if kind_of(path) == kind]
    if not files:
        raise UsageError(f"no {kind} files in {inputs}; --data_format {data_format} reads those.")
    pairs = targets_in(output, files, ".txt")
    return list(map_files(Segmenter(key, cn_seg_func), pairs, workers, log_interval))


__all__ = ["DATA_FORMATS", "Segmented", "Segmenter", "segment", "segment_files"]
