"""Plain text to JSON lines: one record for each document."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import List, Sequence, Union

from paddlenlp.data.file_pool import map_files, targets_in
from paddlenlp.data.line_shuffle import shuffle_lines
from paddlenlp.data.text_sources import Problem, find_text_files, kind_of, read_chunks
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.files import atomic_path
from paddlenlp.utils.log import logger


@dataclass(frozen=True)
class Converted:
    """What became of one file or of several: documents written, those too short, and what could not be read."""

    documents: int
    short: int
    problems: List[Problem]


@dataclass(frozen=True)
class JsonLines:
    """Writes the documents of a text file as JSON lines.

    Attributes:
        json_key: key of the text.
        separator: the line between two documents.
        min_doc_length: a document of no more characters, line ends included, is left out.
    """

    json_key: str = "text"
    separator: str = ""
    min_doc_length: int = 10

    def __call__(self, source: Path, target: Path) -> Converted:
        """Write `target`, which appears when it is whole."""
        written = short = 0
        problems: List[Problem] = []
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(target) as partial, open(partial, "w", encoding="utf-8", newline="\n") as file:
            for chunk in read_chunks([source], self.separator):
                problems += chunk.problems
                for line, content in chunk.records:
                    try:
                        text = content.decode("utf-8")
                    except UnicodeDecodeError as error:
                        reason = f"not UTF-8: byte {content[error.start]:#04x} at offset {error.start}"
                        problems.append(Problem(str(source), line, reason))
                        continue
                    if len(text) <= self.min_doc_length:
                        short += 1
                        continue
                    file.write(json.dumps({self.json_key: text}, ensure_ascii=False) + "\n")
                    written += 1
        return Converted(written, short, problems)


def text_to_json(
    inputs: Union[str, Sequence[str]],
    output: Path,
    convert: JsonLines,
    *,
    workers: int = 1,
    log_interval: int = 1,
    merge: bool = True,
    seed: Union[int, None] = 0,
) -> Converted:
    """Write the documents of text files to `output`, or with `merge` false to a file each in the folder `output`.

    Args:
        inputs: files, folders or patterns; of folders, the .txt files below them, packed ones too.
        workers: processes.
        log_interval: files between two lines of progress off a terminal.
        seed: of the order of the documents in a merged file; None keeps that of the files.

    Raises:
        UsageError: there is no such file, or no document long enough.
    """
    found, passed_over = find_text_files(inputs)
    files = [path for path in found if kind_of(path) == ".txt"]
    others = [path.name for path in [*passed_over, *found] if path not in files]
    if not files:
        raise UsageError(f"no .txt files in {inputs}; found {', '.join(others[:8])}.")
    if others:
        logger.info(f"not .txt, passed over: {', '.join(others[:8])}{' ...' if len(others) > 8 else ''}")
    if not merge:
        return _sum(list(map_files(convert, targets_in(output, files, ".jsonl"), workers, log_interval)))
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as folder:
        pairs = [(file, Path(folder) / f"{number}.jsonl") for number, file in enumerate(files)]
        total = _sum(list(map_files(convert, pairs, workers, log_interval)))
        if not total.documents:
            why = f"; {total.short} are shorter" if total.short else ""
            raise UsageError(f"no document of more than {convert.min_doc_length} characters in {inputs}{why}.")
        _join([part for _, part in pairs], Path(folder) / "all", output, seed)
    return total


def _join(parts: List[Path], whole: Path, output: Path, seed: Union[int, None]) -> None:
    with open(whole, "wb") as file:
        for part in parts:
            with open(part, "rb") as one:
                shutil.copyfileobj(one, file, 1 << 20)
            part.unlink()
    with atomic_path(output) as partial:
        if seed is None:
            whole.replace(partial)
            return
        with open(partial, "wb") as target:
            shuffle_lines(whole, target, seed)


def _sum(results: List[Converted]) -> Converted:
    return Converted(
        sum(one.documents for one in results),
        sum(one.short for one in results),
        [problem for one in results for problem in one.problems],
    )


__all__ = ["Converted", "JsonLines", "text_to_json"]
