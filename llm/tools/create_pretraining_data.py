"""Makes a token dataset (.bin, .idx) for pretraining from text files.

python llm/tools/create_pretraining_data.py --tokenizer_name_or_path data/tiny/tokenizer \\
    --input_path llm/corpus --output_prefix data/tiny/dataset/corpus --append_eos
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Optional, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from paddlenlp.data.preprocess import DocumentEncoder, PreprocessResult, make_dataset_from_text  # noqa: E402
from paddlenlp.data.preprocess_text import TextOptions  # noqa: E402
from paddlenlp.data.progress import DocumentProgress  # noqa: E402
from paddlenlp.data.text_sources import find_text_files  # noqa: E402
from paddlenlp.transformers.auto.tokenizer import AutoTokenizer  # noqa: E402
from paddlenlp.utils.errors import UsageError  # noqa: E402

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    _tokenizer_options(made.add_argument_group("tokenizer"))
    _text_options(made.add_argument_group("text"))
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
        "--input_path", nargs="+", required=True, help="files, folders or patterns: .jsonl .json .txt, also .gz .zst"
    )
    group.add_argument(
        "--data_format", choices=["text", "JSON"], default="text", help="accepted; the names of the files tell it"
    )
    group.add_argument("--json_key", default="text", help="key of the text in a JSON record (default: text)")
    group.add_argument(
        "--doc_spliter", default="", help="line between two documents of a .txt file (default: an empty line)"
    )
    group.add_argument("--split_sentences", action="store_true", help="make each sentence a sequence of its own")
    group.add_argument(
        "--max_repeated_len", type=int, default=100, help="write longer runs of one character once (default: 100)"
    )
    group.add_argument("--max_doc_num", type=int, default=sys.maxsize, help="stop after so many documents")


def _chinese_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--chinese", action="store_true", help="with --split_sentences: sentences end at line ends")
    group.add_argument(
        "--cn_whole_word_segment", action="store_true", help="let no token reach across a border of two words"
    )
    group.add_argument(
        "--cn_seg_func",
        choices=["lac", "seg", "jieba"],
        default="jieba",
        help="what finds words; only jieba is offered",
    )
    group.add_argument("--cn_splited", action="store_true", help="words are already set apart in the text")
    group.add_argument("--cn_split_dimer", default=" ", help="what stands between such words (default: a space)")


def _output_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--output_prefix", required=True, help="writes PREFIX.bin, PREFIX.idx and PREFIX.meta.json")
    group.add_argument("--data_impl", choices=["mmap", "lazy"], default="mmap", help="format; only mmap is written")
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


def run(args: argparse.Namespace) -> PreprocessResult:
    """Check everything, make the dataset and return the counts."""
    if args.data_impl != "mmap":
        raise UsageError("--data_impl lazy is read but not written; use mmap, which every reader understands")
    for name in ("workers", "max_doc_num", "log_interval"):
        if getattr(args, name) < 1:
            raise UsageError(f"--{name} is {getattr(args, name)}; expected at least 1")
    text_names = ["json_key", "max_repeated_len", "split_sentences", "chinese"]
    text_names += ["cn_whole_word_segment", "cn_seg_func", "cn_splited", "cn_split_dimer"]
    options = TextOptions(**{name: getattr(args, name) for name in text_names})
    files, _ = find_text_files(args.input_path)
    encoder = DocumentEncoder(AutoTokenizer.from_pretrained(tokenizer_source(args)), options, args.append_eos)
    return make_dataset_from_text(
        args.input_path,
        args.output_prefix,
        encoder,
        workers=args.workers,
        max_documents=args.max_doc_num,
        stop_on_error=args.on_error == "stop",
        separator=args.doc_spliter,
        progress=DocumentProgress(sum(path.stat().st_size for path in files), args.log_interval),
        command=sys.argv,
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


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Exit code: 0, or 2 with one message for what the user can do something about."""
    args = parser().parse_args(argv)
    _stamp("start")
    start = time.perf_counter()
    try:
        result = run(args)
    except (UsageError, OSError) as error:
        print(f"create_pretraining_data: {error}", file=sys.stderr)
        return 2
    seconds = time.perf_counter() - start
    print(
        f"Saved tokens to {args.output_prefix}.bin and .idx in {seconds:.1f} s, {result.tokens / seconds:.0f} tokens/s"
    )
    _report(result)
    _stamp("end")
    return 0


if __name__ == "__main__":
    sys.exit(main())
