"""Makes a token dataset (.bin, .idx) for pretraining from text files.

python llm/tools/create_pretraining_data.py --tokenizer_name_or_path data/tiny/tokenizer \\
    --input_path llm/corpus --output_prefix data/tiny/dataset/corpus --append_eos

A run that was killed leaves PREFIX.parts; the same command goes on from there.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Optional, Sequence, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from paddlenlp.data.preprocess import (  # noqa: E402
    DocumentEncoder,
    PreprocessResult,
    RunOptions,
    make_dataset_from_text,
)
from paddlenlp.data.preprocess_text import UNICODE_FORMS, WORD_CUTTERS, TextOptions  # noqa: E402
from paddlenlp.data.progress import DocumentProgress  # noqa: E402
from paddlenlp.data.text_sources import find_text_files  # noqa: E402
from paddlenlp.transformers.auto.tokenizer import AutoTokenizer  # noqa: E402
from paddlenlp.utils.command import run_tool  # noqa: E402
from paddlenlp.utils.errors import UsageError  # noqa: E402

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    _tokenizer_options(made.add_argument_group("tokenizer"))
    _text_options(made.add_argument_group("text"))
    _cleaning_options(made.add_argument_group("cleaning"))
    _chinese_options(made.add_argument_group("Chinese words"))
    _output_options(made.add_argument_group("output"))
    _run_options(made.add_argument_group("run"))
    return made


def _tokenizer_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--tokenizer_name_or_path", help="folder of a tokenizer, or a model's name on the hub")
    group.add_argument("--model_name_or_path", help="the same, under the name that is used for models")
    group.add_argument("--model_name", help="the same, under an older name")
    group.add_argument(
        "--tokenizer_name", help="older: a class such as LlamaTokenizer (the files tell it), or a folder or name"
    )


def _text_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--input_path",
        nargs="+",
        required=True,
        help="files, folders or patterns: .jsonl .json .txt (also .gz .zst) .parquet",
    )
    group.add_argument(
        "--data_format", choices=["text", "JSON"], default="text", help="accepted; the names of the files tell it"
    )
    group.add_argument("--json_key", default="text", help="key of a JSON record or column of a table (default: text)")
    group.add_argument(
        "--doc_spliter", default="", help="line between two documents of a .txt file (default: an empty line)"
    )
    group.add_argument("--split_sentences", action="store_true", help="make each sentence a sequence of its own")
    group.add_argument("--max_doc_num", type=int, default=sys.maxsize, help="stop after so many documents")
    group.add_argument(
        "--shard", metavar="I/N", default="1/1", help="read the I-th of N shares of the text, for N runs side by side"
    )


def _cleaning_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--max_repeated_len", type=int, default=100, help="write longer runs of one character once (default: 100)"
    )
    group.add_argument(
        "--unicode_normalization", choices=UNICODE_FORMS, help="bring characters to this form (default: as they are)"
    )
    group.add_argument(
        "--remove_control_characters",
        action="store_true",
        help="drop control characters (not tabs and line ends), zero-width spaces and marks of byte order",
    )
    group.add_argument(
        "--min_doc_length", type=int, default=0, help="leave out documents with fewer characters (default: 0)"
    )
    group.add_argument(
        "--remove_duplicates", action="store_true", help="of documents with the same text keep only the first"
    )


def _chinese_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--chinese", action="store_true", help="with --split_sentences: sentences end at line ends")
    group.add_argument(
        "--cn_whole_word_segment", action="store_true", help="let no token reach across a border of two words"
    )
    group.add_argument(
        "--cn_seg_func",
        choices=WORD_CUTTERS,
        default="jieba",
        help="what finds words: jieba, or LAC with or without lexical analysis (default: jieba)",
    )
    group.add_argument("--cn_splited", action="store_true", help="words are already set apart in the text")
    group.add_argument("--cn_split_dimer", default=" ", help="what stands between such words (default: a space)")


def _output_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--output_prefix", required=True, help="writes PREFIX.bin, PREFIX.idx and PREFIX.meta.json")
    group.add_argument("--data_impl", choices=["mmap", "lazy"], default="mmap", help="format (default: mmap)")
    group.add_argument("--append_eos", action="store_true", help="put the end token after each document")


def _run_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--workers", type=int, default=CORES, help=f"processes; 1 = no others (default: cores, {CORES})")
    group.add_argument(
        "--on_error",
        choices=["skip", "stop"],
        default="skip",
        help="a record that cannot be read is reported, counted and left out, or ends the run (default: skip)",
    )
    group.add_argument(
        "--log_interval", type=int, default=1000, help="documents between progress lines off a terminal (default: 1000)"
    )
    group.add_argument(
        "--sync_interval", type=float, default=10, help="seconds of work that a kill may cost at most (default: 10)"
    )


def tokenizer_source(args: argparse.Namespace) -> str:
    """Which of the options names the tokenizer.

    Raises:
        UsageError: none does.
    """
    older = args.tokenizer_name if args.tokenizer_name and not args.tokenizer_name.endswith("Tokenizer") else None
    for name in (args.tokenizer_name_or_path, args.model_name_or_path, args.model_name, older):
        if name:
            return name
    raise UsageError("no tokenizer given; set --tokenizer_name_or_path (or --model_name_or_path) to a folder or name")


def share(text: str) -> Tuple[int, int]:
    """(2, 8) of "2/8".

    Raises:
        UsageError: it is not of this form, or there is no such share.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    number, count = (int(part) for part in found.groups()) if found else (0, 0)
    if not 1 <= number <= count:
        raise UsageError(f"--shard is {text!r}; expected I/N with I from 1 to N, such as 2/8")
    return number, count


def run(args: argparse.Namespace) -> PreprocessResult:
    """Check everything, make the dataset and return the counts."""
    for name in ("workers", "max_doc_num", "log_interval"):
        if getattr(args, name) < 1:
            raise UsageError(f"--{name} is {getattr(args, name)}; expected at least 1")
    if args.sync_interval < 0:
        raise UsageError(f"--sync_interval is {args.sync_interval}; expected 0 or more seconds")
    options = RunOptions(
        workers=args.workers,
        max_documents=args.max_doc_num,
        stop_on_error=args.on_error == "stop",
        separator=args.doc_spliter,
        impl=args.data_impl,
        share=share(args.shard),
        sync_interval=args.sync_interval,
    )
    find_text_files(args.input_path)  # a wrong path is told before the tokenizer is read
    text_options = TextOptions(**{field.name: getattr(args, field.name) for field in fields(TextOptions)})
    encoder = DocumentEncoder(AutoTokenizer.from_pretrained(tokenizer_source(args)), text_options, args.append_eos)
    progress = DocumentProgress(args.log_interval)
    return make_dataset_from_text(
        args.input_path, args.output_prefix, encoder, options, progress=progress, command=sys.argv
    )


def _stamp(what: str) -> None:
    print(f"[{what}] datetime: {time.strftime('%Y-%m-%d %H:%M:%S')}")


def _report(result: PreprocessResult) -> None:
    print(f"Total sentences num: {result.sequences}")
    print(f"Total documents num: {result.documents}")
    print(f"Total tokens num: {result.tokens}")
    print(f"Average tokens per sentence: {result.tokens / result.sequences:.2f}")
    print(f"Average tokens per document: {result.tokens / result.documents:.2f}")
    if result.skipped:
        print(f"Records left out because they could not be read: {result.skipped}")
    if result.short:
        print(f"Documents left out because they are too short: {result.short}")
    if result.repeated:
        print(f"Documents left out because their text was there before: {result.repeated}")


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Exit code: 0; 2 with one message for what the user can do something about; 130 when interrupted."""
    args = parser().parse_args(argv)
    return run_tool(lambda: _run_and_report(args), "create_pretraining_data")


def _run_and_report(args: argparse.Namespace) -> None:
    _stamp("start")
    start = time.perf_counter()
    result = run(args)
    seconds = time.perf_counter() - start
    rate = (result.tokens - result.earlier_tokens) / seconds
    print(f"Saved tokens to {args.output_prefix}.bin and .idx in {seconds:.1f} s, {rate:.0f} tokens/s")
    _report(result)
    _stamp("end")


if __name__ == "__main__":
    sys.exit(main())
