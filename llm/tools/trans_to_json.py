"""Makes JSON lines from plain text files.

python llm/tools/trans_to_json.py --input_path data/mine/books --output_path data/mine/books.jsonl
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Optional, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from paddlenlp.data.text_to_json import Converted, JsonLines, text_to_json  # noqa: E402
from paddlenlp.utils.command import run_tool  # noqa: E402
from paddlenlp.utils.errors import UsageError  # noqa: E402

_SHOWN = 20


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    made.add_argument(
        "--input_path", nargs="+", required=True, help="files, folders or patterns: .txt, .txt.gz .txt.zst"
    )
    made.add_argument("--output_path", required=True, help="the .jsonl file; with --no-merge, a folder")
    made.add_argument("--json_key", default="text", help="key of the text in a record (default: text)")
    made.add_argument("--doc_spliter", default="", help="line between two documents (default: an empty line)")
    made.add_argument(
        "--min_doc_length", type=int, default=10, help="leave out documents of no more characters (default: 10)"
    )
    made.add_argument("--workers", type=int, default=1, help="processes (default: 1)")
    made.add_argument(
        "--log_interval", type=int, default=1, help="files between progress lines off a terminal (default: 1)"
    )
    made.add_argument("--no-merge", action="store_true", help="write one .jsonl for each file, in a folder")
    made.add_argument("--no-shuffle", action="store_true", help="keep the order of the files")
    made.add_argument("--seed", type=int, default=0, help="of the order of the documents (default: 0)")
    return made


def convert(args: argparse.Namespace) -> Converted:
    """Check the options and write."""
    for name, least in (("workers", 1), ("log_interval", 1), ("min_doc_length", 0)):
        if getattr(args, name) < least:
            raise UsageError(f"--{name} is {getattr(args, name)}; expected at least {least}")
    output = Path(args.output_path)
    if not args.no_merge and output.suffix != ".jsonl":
        output = Path(f"{output}.jsonl")
    lines = JsonLines(args.json_key, args.doc_spliter, args.min_doc_length)
    seed = None if args.no_shuffle else args.seed
    rest = {"workers": args.workers, "log_interval": args.log_interval, "merge": not args.no_merge, "seed": seed}
    return text_to_json(args.input_path, output, lines, **rest)


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Exit code: 0, or 2 with one message for what the user can do something about."""
    args = parser().parse_args(argv)
    return run_tool(lambda: run(args), "trans_to_json")


def run(args: argparse.Namespace) -> None:
    """Convert, and say what came of it."""
    done = convert(args)
    for problem in done.problems[:_SHOWN]:
        print(f"{problem}; left out", file=sys.stderr)
    print(f"{done.documents} documents, {done.short} too short, {len(done.problems)} could not be read")


if __name__ == "__main__":
    sys.exit(main())
