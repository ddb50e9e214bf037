"""Checkpoints from the command line: verify them, list them, convert them to and from the Hugging Face format.

python -m paddlenlp.checkpoint verify checkpoints/run
python -m paddlenlp.checkpoint list checkpoints/run
python -m paddlenlp.checkpoint convert checkpoints/run/checkpoint-500 exported --to hf
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import List, Optional, Sequence

from paddlenlp.checkpoint.inspection import Summary, examine, folders_of, summarise
from paddlenlp.checkpoint.manifest import MANIFEST, verify
from paddlenlp.utils.command import run_tool
from paddlenlp.utils.errors import UsageError

_SHOWN = 5
"""Names of left out tensors that are listed."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m paddlenlp.checkpoint",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = made.add_subparsers(dest="command", required=True)
    one = commands.add_parser("verify", help="read everything; exit code 1 if anything is damaged")
    one.add_argument("folder", help="a checkpoint, or the output_dir of a run")
    one.set_defaults(run=_verify)
    one = commands.add_parser("list", help="step, size, state, date, layout and content of each checkpoint")
    one.add_argument("folder", help="the output_dir of a run")
    one.add_argument("--verify", action="store_true", help="read everything, not only the sizes of the files")
    one.set_defaults(run=_list)
    one = commands.add_parser("convert", help="to or from the Hugging Face format", allow_abbrev=False)
    one.add_argument("source", help="a checkpoint or a model folder in either format; it is only read")
    one.add_argument("target", help="a new or empty folder")
    one.add_argument("--to", required=True, choices=("hf", "native"), help="the format to write")
    one.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        help="type of the weights (default: as stored); float32 takes the master weights of a low-precision run",
    )
    one.add_argument("--max_shard_size", default="10GB", help="largest file, such as 5GB or 500MiB (default: 10GB)")
    one.add_argument("--no_verify", action="store_true", help="do not compare the source with its manifest first")
    one.set_defaults(run=_convert)
    return made


def _verify(args: argparse.Namespace) -> int:
    folders = folders_of(args.folder)
    if not folders:
        raise UsageError(f"{args.folder}: no checkpoints here. Expected folders named checkpoint-<step>.")
    damaged = 0
    for folder in folders:
        problems = examine(folder)
        damaged += bool(problems)
        print(f"{folder}: {'damaged' if problems else 'whole'}", flush=True)
        for problem in problems:
            print(f"  - {problem}")
    return 1 if damaged else 0


def _list(args: argparse.Namespace) -> int:
    found = summarise(args.folder, content=args.verify)
    if not found:
        print(f"{args.folder}: no checkpoints")
        return 0
    head = ["step", "size", "state", "written", "layout", "content", "folder"]
    rows = [head, *(_row(summary, args.verify) for summary in found)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(head))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    for summary in found:
        for problem in summary.problems:
            print(f"{summary.folder.name}: {problem}")
    return 0


def _row(summary: Summary, verified: bool) -> List[str]:
    good = "whole" if verified else "sizes agree"
    state = "set aside" if summary.rejected else "damaged" if summary.problems else good
    written = f"{summary.written:%Y-%m-%d %H:%M:%S}" if summary.written else "-"
    content = " ".join(summary.stems) or "-"
    return [str(summary.step), _size(summary.size), state, written, summary.layout or "-", content, summary.folder.name]


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _convert(args: argparse.Namespace) -> int:
    source = Path(args.source)
    if (source / MANIFEST).is_file() and not args.no_verify:
        _check_source(source, args.dtype == "float32")
    import paddle

    from paddlenlp.transformers.convert import convert_model

    paddle.set_device("cpu")
    done = convert_model(source, args.target, args.to, args.dtype, args.max_shard_size)
    if done.left_out:
        more = f" and {len(done.left_out) - _SHOWN} more" if len(done.left_out) > _SHOWN else ""
        print(f"Left out, no parameters of the model: {', '.join(done.left_out[:_SHOWN])}{more}")
    print(f"{args.target}: {done.parameters} tensors, {_size(done.size)}, format {args.to}")
    return 0


def _check_source(source: Path, masters: bool) -> None:
    """Refuse to convert what is damaged; files that a conversion does not read are not looked at."""
    unread = ("optimizer",) if masters else ("optimizer", "master_weights")
    problems = verify(source, wanted=lambda name: not name.startswith(unread))
    if problems:
        listed = "".join(f"\n  - {problem}" for problem in problems)
        raise UsageError(
            f"{source} is not the checkpoint that was written:{listed}\n"
            "Convert another one; --no_verify converts it all the same."
        )


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Exit code: 0; 1 if `verify` finds damage; 2, with one message, for what the user can do something about."""
    args = parser().parse_args(argv)
    return run_tool(lambda: args.run(args))


if __name__ == "__main__":
    sys.exit(main())
