"""Trains a byte-level BPE tokenizer on text files.

python llm/tools/train_tokenizer.py --input_path llm/corpus --vocab_size 8192 --output_dir data/tiny/tokenizer
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Iterator, Optional, Sequence

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from paddlenlp.data.preprocess_text import TextOptions, TextReader  # noqa: E402
from paddlenlp.data.text_sources import find_text_files, read_chunks  # noqa: E402
from paddlenlp.transformers.tokenizer_training import save_trained, train_byte_level_bpe  # noqa: E402
from paddlenlp.utils.command import run_tool  # noqa: E402
from paddlenlp.utils.errors import UsageError  # noqa: E402
from paddlenlp.utils.log import logger  # noqa: E402


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    text = made.add_argument_group("text")
    text.add_argument(
        "--input_path",
        nargs="+",
        required=True,
        help="files, folders or patterns: .jsonl .json .txt (also .gz .zst) .parquet",
    )
    text.add_argument("--json_key", default="text", help="key of the text in a JSON record (default: text)")
    text.add_argument("--doc_spliter", default="", help="line between documents of .txt files (default: an empty line)")
    text.add_argument("--max_doc_num", type=int, default=sys.maxsize, help="use at most so many documents")
    vocabulary = made.add_argument_group("vocabulary")
    vocabulary.add_argument(
        "--vocab_size", type=int, default=32000, help="tokens, special ones included (default: 32000)"
    )
    vocabulary.add_argument("--min_frequency", type=int, default=2, help="occurrences a merge needs (default: 2)")
    vocabulary.add_argument("--special_tokens", nargs="*", default=[], help="further ones after <pad> <s> </s>")
    made.add_argument("--output_dir", required=True, help="folder for tokenizer.json and its two small files")
    return made


def documents(args: argparse.Namespace) -> Iterator[str]:
    """The texts to learn from, under a progress bar."""
    files, _ = find_text_files(args.input_path)
    reader = TextReader(TextOptions(json_key=args.json_key))
    total = sum(path.stat().st_size for path in files)
    left = args.max_doc_num
    with tqdm(total=total, desc="Reading", unit="B", unit_scale=True, disable=None) as bar:
        for chunk in read_chunks(files, args.doc_spliter, args.json_key):
            found, problems, _ = reader.documents(chunk)
            for problem in problems:
                logger.warning(f"{problem}; left out")
            yield from (text for texts in found[:left] for text in texts if isinstance(text, str))
            left -= len(found[:left])
            bar.update(chunk.read)
            if not left:
                return


def run(args: argparse.Namespace) -> None:
    """Train, save and say what came of it."""
    start = time.perf_counter()
    texts = documents(args)
    first = next(texts, None)
    if first is None:
        raise UsageError(f"no documents with text in {', '.join(args.input_path)}")
    characters = 0

    def counted() -> Iterator[str]:
        nonlocal characters
        for text in _chain(first, texts):
            characters += len(text)
            yield text

    trained = train_byte_level_bpe(
        counted(),
        args.vocab_size,
        special_tokens=args.special_tokens,
        min_frequency=args.min_frequency,
        show_progress=sys.stderr.isatty(),
    )
    made = save_trained(trained, args.output_dir)
    if len(made) < args.vocab_size:
        logger.warning(f"the text gave {len(made)} tokens only, not {args.vocab_size}; more text would give more")
    seconds = time.perf_counter() - start
    print(f"{args.output_dir}: {len(made)} tokens from {characters} characters in {seconds:.1f} s")


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Exit code: 0, or 2 with one message for what the user can do something about."""
    args = parser().parse_args(argv)
    return run_tool(lambda: run(args), "train_tokenizer")


if __name__ == "__main__":
    sys.exit(main())
