"""Datasets from the command line: look into them, verify, split and convert them.

python llm/tools/dataset.py inspect data/tiny/dataset/corpus --tokenizer_name_or_path data/tiny/tokenizer
python llm/tools/dataset.py stat data/tiny/dataset
python llm/tools/dataset.py verify data/tiny/dataset
python llm/tools/dataset.py split data/tiny/dataset/corpus --shares 90,10 --output_prefix data/mine/dataset/corpus
python llm/tools/dataset.py convert old/corpus data/mine/dataset/corpus
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import List, Optional, Sequence

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from paddlenlp.data import dataset_copy, dataset_picture, dataset_report, dataset_verify  # noqa: E402
from paddlenlp.data.dataset_lengths import DocumentLengths  # noqa: E402
from paddlenlp.data.discovery import prefixes_in  # noqa: E402
from paddlenlp.data.megatron import open_any  # noqa: E402
from paddlenlp.utils.command import run_tool  # noqa: E402
from paddlenlp.utils.errors import UsageError  # noqa: E402

DTYPES = ("uint8", "int8", "uint16", "int16", "int32", "uint32", "int64", "uint64")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    commands = made.add_subparsers(dest="command", required=True)
    _inspect_options(commands.add_parser("inspect", help="counts, lengths and text", allow_abbrev=False))
    one = commands.add_parser("stat", help="one line for each dataset, and sums", allow_abbrev=False)
    one.add_argument("data", nargs="+", help="prefixes or folders")
    one.add_argument("--json", action="store_true", help="print JSON")
    one.set_defaults(run=_stat)
    _verify_options(commands.add_parser("verify", help="read everything; exit code 1 if damaged", allow_abbrev=False))
    one = commands.add_parser("split", help="documents to several datasets, in order", allow_abbrev=False)
    one.add_argument("source", help="prefix")
    one.add_argument("--output_prefix", required=True, help="its name is followed by _train, _valid, _test or a number")
    how = one.add_mutually_exclusive_group(required=True)
    how.add_argument("--shares", help="of the documents for training, validation and test, such as 949,50,1")
    how.add_argument("--parts", type=int, help="so many datasets with about as many tokens each")
    one.set_defaults(run=_split)
    one = commands.add_parser("convert", help="legacy, lazy or Megatron-core files to ours", allow_abbrev=False)
    one.add_argument("source", help="prefix; the format is found out")
    one.add_argument("target", help="prefix of the new dataset")
    one.add_argument("--dtype", choices=DTYPES, help="type of the ids (default: as they are)")
    one.add_argument("--data_impl", choices=["mmap", "lazy"], default="mmap", help="format to write (default: mmap)")
    one.add_argument("--ignore_modes", action="store_true", help="take all sequences of Megatron-core files for text")
    one.set_defaults(run=_convert)
    return made


def _inspect_options(one: argparse.ArgumentParser) -> None:
    one.add_argument("data", nargs="+", help="prefixes or folders")
    one.add_argument("--tokenizer_name_or_path", help="shows documents as text; without it, as ids")
    one.add_argument("--samples", type=int, default=3, help="documents to show, spread evenly (default: 3)")
    one.add_argument("--documents", type=int, nargs="+", help="numbers of documents to show instead, from 0")
    one.add_argument("--max_tokens", type=int, default=100, help="tokens to show of each (default: 100)")
    one.add_argument("--width", type=int, default=50, help="characters of the longest bar (default: 50)")
    one.add_argument("--histogram", metavar="FILE.png", help="draw the lengths of the documents into this file, too")
    one.set_defaults(run=_inspect)


def _verify_options(one: argparse.ArgumentParser) -> None:
    one.add_argument("data", nargs="+", help="prefixes or folders")
    one.add_argument("--vocab_size", type=int, help="all ids must be below it (default: what .meta.json records)")
    one.add_argument("--source", help="prefix of another copy of one dataset to compare with")
    one.add_argument("--record", action="store_true", help="write the hashes of what is whole into .meta.json")
    one.set_defaults(run=_verify)


def prefixes_of(data: Sequence[str]) -> List[str]:
    """The datasets that `data` names: prefixes, and all in folders.

    Raises:
        UsageError: a folder holds none.
    """
    return [prefix for name in data for prefix in (prefixes_in(name) if os.path.isdir(name) else [name])]


def _inspect(args: argparse.Namespace) -> int:
    for name in ("max_tokens", "width"):
        if getattr(args, name) < 1:
            raise UsageError(f"--{name} is {getattr(args, name)}; expected at least 1")
    tokenizer = None
    if args.tokenizer_name_or_path:
        from paddlenlp.transformers.auto.tokenizer import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(args.tokenizer_name_or_path)
    prefixes = prefixes_of(args.data)
    if args.histogram:
        stores = [(prefix, open_any(prefix, ignore_modes=True)) for prefix in prefixes]
        dataset_picture.save_histogram(args.histogram, [(name, DocumentLengths(store)) for name, store in stores])
    for prefix in prefixes:
        print(dataset_report.describe(prefix, args.width))
        store = open_any(prefix, ignore_modes=True)
        for number in args.documents or dataset_report.sample_documents(store, args.samples):
            print(dataset_report.show_document(store, number, args.max_tokens, tokenizer))
    return 0


def _stat(args: argparse.Namespace) -> int:
    counts = [dataset_report.count_dataset(prefix) for prefix in prefixes_of(args.data)]
    print(json.dumps(counts, indent=2, ensure_ascii=False) if args.json else dataset_report.table(counts))
    return 0


def _verify(args: argparse.Namespace) -> int:
    prefixes, damaged = prefixes_of(args.data), 0
    if args.source and len(prefixes) != 1:
        raise UsageError(f"--source is compared with one dataset; {len(prefixes)} are given.")
    for prefix in prefixes:
        verdict = dataset_verify.verify_dataset(prefix, args.vocab_size, args.source)
        _tell(verdict)
        damaged += bool(verdict.problems)
        if args.record and not verdict.problems:
            dataset_verify.record_facts(verdict)
    return 1 if damaged else 0


def _tell(verdict: dataset_verify.Verdict) -> None:
    rate = f", {verdict.size / 1e9 / verdict.seconds:.2f} GB/s" if verdict.seconds else ""
    print(
        f"{verdict.prefix}: {'damaged' if verdict.problems else 'whole'} ({verdict.size:,} bytes read{rate})",
        flush=True,
    )
    for problem in verdict.problems:
        print(f"  - {problem}")
    for note in verdict.notes:
        print(f"  {note}")


def _split(args: argparse.Namespace) -> int:
    if args.shares:
        _wrote(dataset_copy.split_by_shares(args.source, args.output_prefix, args.shares, sys.argv))
    else:
        _wrote(dataset_copy.split_in_parts(args.source, args.output_prefix, args.parts, sys.argv))
    return 0


def _convert(args: argparse.Namespace) -> int:
    store = open_any(args.source, args.ignore_modes)
    whole = dataset_copy.Slice(store, 0, store.num_documents)
    dtype = np.dtype(args.dtype) if args.dtype else None
    _wrote([dataset_copy.copy_documents([whole], args.target, dtype, args.data_impl, sys.argv)])
    return 0


def _wrote(copies: Sequence[dataset_copy.Copied]) -> None:
    for made in copies:
        print(f"{made.prefix}: {made.documents:,} documents, {made.sequences:,} sequences, {made.tokens:,} tokens")


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Exit code: 0; 1 if `verify` finds damage; 2, with one message, for what the user can do something about."""
    args = parser().parse_args(argv)
    return run_tool(lambda: args.run(args))


if __name__ == "__main__":
    sys.exit(main())
