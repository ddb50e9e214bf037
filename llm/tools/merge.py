"""Merges datasets (.bin, .idx) into one, in the order of their names.

python llm/tools/merge.py --input data/mine/parts --output-prefix data/mine/dataset/all
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Optional, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from paddlenlp.data.dataset_copy import merge_datasets  # noqa: E402
from paddlenlp.data.discovery import prefixes_in  # noqa: E402
from paddlenlp.utils.command import run_tool  # noqa: E402


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    made.add_argument(
        "--input",
        nargs="+",
        required=True,
        help="a folder of datasets, or prefixes in the order in which to merge them",
    )
    made.add_argument("--data_impl", choices=["mmap", "lazy"], default="mmap", help="format to write (default: mmap)")
    made.add_argument("--output-prefix", "--output_prefix", required=True, help="prefix of the new dataset")
    return made


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Exit code: 0, or 2 with one message for what the user can do something about."""
    args = parser().parse_args(argv)
    return run_tool(lambda: run(args))


def run(args: argparse.Namespace) -> None:
    """Merge, and say what was written."""
    prefixes = [prefix for name in args.input for prefix in (prefixes_in(name) if os.path.isdir(name) else [name])]
    made = merge_datasets(prefixes, args.output_prefix, args.data_impl, sys.argv)
    print(
        f"{made.prefix}: {len(prefixes)} datasets, {made.documents:,} documents, {made.sequences:,} sequences, "
        f"{made.tokens:,} tokens"
    )


if __name__ == "__main__":
    sys.exit(main())
