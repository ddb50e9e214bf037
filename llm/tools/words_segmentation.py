"""Sets the words of Chinese text apart, for `create_pretraining_data.py --cn_whole_word_segment --cn_splited`.

python llm/tools/words_segmentation.py --input_path data/mine/classics.jsonl --output_path data/mine/words
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import List, Optional, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from paddlenlp.data.preprocess_text import WORD_CUTTERS  # noqa: E402
from paddlenlp.data.word_segmentation import DATA_FORMATS, Segmented, segment_files  # noqa: E402
from paddlenlp.utils.command import run_tool  # noqa: E402
from paddlenlp.utils.errors import UsageError  # noqa: E402

_SHOWN = 20


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    made.add_argument("--input_path", nargs="+", required=True, help="files, folders or patterns")
    made.add_argument("--output_path", default="./tmp", help="folder of the text files (default: ./tmp)")
    made.add_argument(
        "--data_format",
        choices=list(DATA_FORMATS),
        default="jsonl",
        help='jsonl: lines with a "text"; wudao: .json arrays with a "content" (default: jsonl)',
    )
    made.add_argument(
        "--cn_seg_func", choices=list(WORD_CUTTERS), default="jieba", help="what finds words (default: jieba)"
    )
    made.add_argument("--workers", type=int, default=1, help="processes, a file each (default: 1)")
    made.add_argument(
        "--log_interval", type=int, default=1, help="files between progress lines off a terminal (default: 1)"
    )
    return made


def segment(args: argparse.Namespace) -> List[Segmented]:
    """Check the options and write."""
    for name in ("workers", "log_interval"):
        if getattr(args, name) < 1:
            raise UsageError(f"--{name} is {getattr(args, name)}; expected at least 1")
    rest = {"workers": args.workers, "log_interval": args.log_interval}
    return segment_files(args.input_path, Path(args.output_path), args.data_format, args.cn_seg_func, **rest)


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Exit code: 0, or 2 with one message for what the user can do something about."""
    args = parser().parse_args(argv)
    return run_tool(lambda: run(args), "words_segmentation")


def run(args: argparse.Namespace) -> None:
    """Segment, and say what came of it."""
    done = segment(args)
    for problem in [problem for one in done for problem in one.problems][:_SHOWN]:
        print(f"{problem}; left out", file=sys.stderr)
    for one in done:
        print(f"{one.target}: " + ("was there, left as it is" if one.kept else f"{one.documents} documents"))


if __name__ == "__main__":
    sys.exit(main())
