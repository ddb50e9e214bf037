"""Makes the corpus of this folder from its unpacked sources (see README.md); the same sources give the same bytes.

bible -p TEXT_FOLDER -l 100000 <<< "Ge1:1-Re22:21" > kjv.txt
python llm/corpus/build_corpus.py --bible kjv.txt --python_docs html/_sources --poetry package/dist
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List

LONGEST = {"en": 6000, "zh": 1500}  # characters of one document; longer pages are cut between paragraphs
SHORTEST = 100
CHINESE_EVERY = 3  # one Chinese document of three is kept: some Chinese, but not a third of all tokens
BOOK_SECTIONS = ("tutorial", "howto", "faq", "reference", "using", "extending", "library")
OTHER_TERMS = re.compile(r"GFDL|GNU Free Documentation|copyright::|:Copyright:|Creative Commons")
CLASSICS = ("lunyu/*", "sishuwujing/*", "shijing/*", "chuci/*", "mengxue/*", "caocaoshiji/*", "nalanxingde/*")
POEMS = ("songci/ci.song.[012]000.json", "songci/宋词三百首.json", "quantangshi/poet.tang.[01]000.json")
LEFT_OUT = re.compile("sanzijing-new|wenzimengqiu")  # a modern text; a book about the pictures of characters


def group(blocks: Iterable[str], language: str, separator: str = "\n\n") -> Iterator[str]:
    """Blocks joined into documents of at most the language's LONGEST characters; too short a rest is dropped."""
    held: List[str] = []
    for block in blocks:
        if held and sum(map(len, held)) + len(block) > LONGEST[language]:
            yield separator.join(held)
            held = []
        held.append(block)
    if sum(map(len, held)) >= SHORTEST:
        yield separator.join(held)


def bible(path: Path) -> Iterator[str]:
    """One document per chapter: the heading, then a verse a line."""
    chapter: List[str] = []
    text = path.read_text(encoding="utf-8").partition("Re22:21")[2]  # what comes before is the program's greeting
    for line in text.splitlines():
        verse = re.match(r" +\d+ (.*)", line)
        if verse:
            chapter.append(verse[1].strip())
        elif re.fullmatch(r"[1-3A-Z][A-Za-z ]*\d+", line):
            if len(chapter) > 1:
                yield "\n".join(chapter)
            chapter = [line.strip()]
    yield "\n".join(chapter)


def prose_of_rst(text: str) -> Iterator[str]:
    """Titles and paragraphs of a reStructuredText page, without directives, code, tables and markup."""
    code_indent = None  # blocks deeper than this belong to a literal block
    for block in re.split(r"\n[ \t]*\n", text.expandtabs()):
        block = block.strip("\n")
        indent = len(block) - len(block.lstrip())
        if code_indent is not None and indent > code_indent:
            continue
        code_indent = indent if block.rstrip().endswith("::") or ".. code" in block or ".. prod" in block else None
        lines = [line.strip() for line in block.splitlines() if not re.fullmatch(r"[=\-*~^\"'#+ .`]{3,}", line.strip())]
        joined = " ".join(lines)
        if lines and not re.match(r"\.\.|>>>|\$ |:\w+|\||\+|::$", lines[0]) and is_prose(joined):
            yield plain(joined)


def is_prose(block: str) -> bool:
    """Whether letters and spaces make nearly all of a block, and it has some words."""
    return len(block) >= 12 and sum(c.isalpha() or c == " " for c in block) / len(block) > 0.8


def plain(block: str) -> str:
    """A paragraph without reStructuredText markup."""
    block = re.sub(r":[\w:+-]+:`[!~]?([^`<]*?)(?:\s*<[^`>]*>)?`", r"\1", block)
    block = re.sub(r"`([^`<]+?)\s*<[^`>]*>`__?", r"\1", block)
    block = re.sub(r"(?<!\w)(\*\*?|``?)(?=\S)(.+?)(?<=\S)\1_?(?!\w)", r"\2", block)
    return re.sub(r" {2,}", " ", re.sub(r"::$", ":", re.sub(r"\\(?=\W)", "", block))).strip()


def python_docs(folder: Path) -> Iterator[str]:
    """The prose of the Python manual, page by page in pieces."""
    for path in sorted(folder.rglob("*.rst.txt")):
        text = path.read_text(encoding="utf-8")
        if path.relative_to(folder).parts[0] in BOOK_SECTIONS and not OTHER_TERMS.search(text):
            yield from group(prose_of_rst(text), "en")


def chapters(node: Any) -> Iterator[str]:
    """Every titled run of paragraphs in a file of the poetry collection, commentary and biographies left out."""
    if isinstance(node, list):
        for item in node:
            yield from chapters(item)
    elif isinstance(node, dict):
        body = node.get("paragraphs") or node.get("content") or []
        if body and all(isinstance(line, str) for line in body):
            heading = [node.get(k) for k in ("chapter", "title", "rhythmic", "author") if isinstance(node.get(k), str)]
            yield "\n".join([" ".join(heading), *body] if heading else body)
        elif isinstance(body, list):
            yield from chapters(body)


def chinese(folder: Path) -> Iterator[str]:
    """The classics chapter by chapter, the poems in groups."""
    for pattern in CLASSICS + POEMS:
        for path in sorted(folder.glob(pattern)):
            if path.suffix == ".json" and not LEFT_OUT.search(path.name):
                pieces = chapters(json.loads(path.read_text(encoding="utf-8")))
                yield from group(cut(p for p in pieces if not re.search("[□●�{}/]", p)), "zh")


def cut(pieces: Iterable[str]) -> Iterator[str]:
    """Pieces too long for one document broken between their lines."""
    for piece in pieces:
        yield from group(piece.split("\n"), "zh", "\n") if len(piece) > LONGEST["zh"] else [piece]


def write(path: Path, sources: Dict[str, Iterable[str]]) -> None:
    """A gzip of JSON lines in an order drawn from a fixed seed, so that any part of the file is like the rest."""
    rows = sorted({(text, source) for source, texts in sources.items() for text in texts})
    random.Random(0).shuffle(rows)
    lines = "".join(json.dumps({"text": text, "source": source}, ensure_ascii=False) + "\n" for text, source in rows)
    with open(path, "wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as out:
        out.write(lines.encode())
    packed = path.stat().st_size
    print(f"{path}: {len(rows)} documents, {len(lines.encode()) / 1e6:.2f} MB, {packed / 1e6:.2f} MB packed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bible", type=Path, required=True, help="text written by the command above")
    parser.add_argument("--python_docs", type=Path, required=True, help="folder of the manual's .rst.txt sources")
    parser.add_argument("--poetry", type=Path, required=True, help="`dist` folder of the chinese-poetry package")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("corpus.jsonl.gz"))
    args = parser.parse_args()
    docs, classics = python_docs(args.python_docs), sorted(set(chinese(args.poetry)))[::CHINESE_EVERY]
    write(args.output, {"bible": bible(args.bible), "python_docs": docs, "classics": classics})


if __name__ == "__main__":
    main()
