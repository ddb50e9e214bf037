"""Says of a run, before a GPU is taken: does it fit, where does its memory go, how fast will it be, and what would be
better.

    python llm/tools/plan.py CONFIG.json --gpus 8 --gpu a100-80g [--nodes N] [--flag value ...]
    python llm/tools/plan.py CONFIG.json --gpus 8 --gpu h100-80g --picture memory.png --json plan.json
    python llm/tools/plan.py CONFIG.json --gpus 8 --nodes 4 --tokens 1T --price 2.0 --search 5

CONFIG.json and the further flags are those of llm/run_pretrain.py; nothing is read but the shape of the model, which of
a model known by name comes with the toolkit. Exit code: 0 if it fits, 1 if it does not, 2 for wrong input.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from pathlib import Path
from typing import Any, List, NamedTuple, Optional, Sequence

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]

import run_pretrain  # noqa: E402

from paddlenlp.parallel.failure import run_as_rank  # noqa: E402
from paddlenlp.trainer import DataArguments, ModelArguments, PdArgumentParser, PreTrainingArguments  # noqa: E402
from paddlenlp.trainer.model_fit import check_model_fits  # noqa: E402
from paddlenlp.utils.cpu_tuning import apply_cpu_tuning  # noqa: E402
from paddlenlp.utils.errors import UsageError  # noqa: E402
from paddlenlp.utils.files import atomic_write_json  # noqa: E402

UNFIT = 1


class Request(NamedTuple):
    """What is to be planned: the model's configuration, the layout of the run, the device, and the tool's own flags."""

    config: Any
    layout: Any
    hardware: Any
    own: argparse.Namespace


def command_line() -> argparse.ArgumentParser:
    """The tool's own arguments; what it does not know is for the run's."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    made.add_argument("config", help="file of arguments of llm/run_pretrain.py")
    made.add_argument("--gpus", type=int, default=1, help="devices of each node (default: 1)")
    made.add_argument("--nodes", type=int, default=1, help="nodes (default: 1)")
    made.add_argument("--gpu", default="a100-80g", help="a device of the table, or cpu (default: a100-80g)")
    made.add_argument("--hardware", type=Path, help="JSON file with devices of your own")
    made.add_argument("--tokens", help="days to train so many tokens: 20M, 500B, 1.4T")
    made.add_argument("--price", type=float, help="of a device and hour: what --tokens cost")
    made.add_argument("--search", type=int, metavar="N", help="the N fastest layouts of the same global batch that fit")
    made.add_argument("--picture", type=Path, help="write the memory of the ranks as a PNG")
    made.add_argument("--json", type=Path, help="write the plan as JSON")
    return made


def main(argv: Optional[Sequence[str]] = None) -> None:
    """One plan, from the command line to the exit code.

    Raises:
        UsageError: wrong input; the message says what to do.
        SystemExit: with the code, if the run does not fit.
    """
    own, words = command_line().parse_known_args(argv)
    code = plan(read(own, words))
    if code:
        raise SystemExit(code)


def read(own: argparse.Namespace, words: Sequence[str]) -> Request:
    """What the command line asks for. The arguments of the run are checked as by a run of as many processes."""
    if own.gpus < 1 or own.nodes < 1:
        raise UsageError(f"--gpus {own.gpus} --nodes {own.nodes}: give at least one device on at least one node")
    os.environ["PADDLE_TRAINERS_NUM"] = str(own.gpus * own.nodes)
    parser = PdArgumentParser((ModelArguments, DataArguments, PreTrainingArguments))
    model_args, data_args, args = parser.parse([own.config, *words], check_files=False)
    model_args.continue_training = False  # the shape is that of the name, whatever weights it starts from
    nobody: List[str] = []  # a tokenizer without tokens: the vocabulary is that of the configuration
    config = run_pretrain.model_config(model_args, data_args, nobody, args.mesh.tp)
    check_model_fits(config, args)
    if own.gpu == "cpu" and args.cpu_tuning:  # as a run would, before Paddle is loaded
        apply_cpu_tuning()
    warnings.filterwarnings("ignore", message="No ccache found")
    from paddlenlp.planning.hardware import hardware
    from paddlenlp.planning.layout import Layout

    return Request(config, Layout.from_args(args, data_args.max_seq_length), hardware(own.gpu, own.hardware), own)


def plan(request: Request) -> int:
    """Print the plan, and write what is asked for; the exit code."""
    from paddlenlp.planning import report, speed_report
    from paddlenlp.planning.abstract import abstract_model
    from paddlenlp.planning.memory import fullest, needed_within, plan_memory
    from paddlenlp.planning.nearest import nearest
    from paddlenlp.planning.picture import draw_memory
    from paddlenlp.planning.speed import step_time
    from paddlenlp.planning.work import model_work

    config, layout, device, own = request
    model, work, room = abstract_model(config), model_work(config), device.memory_gib * 2**30
    kind = "cpu" if own.gpu == "cpu" else "gpu"
    ranks = plan_memory(model, layout, kind)
    time, tokens = step_time(work, layout, device), None if own.tokens is None else speed_report.amount(own.tokens)
    found = None if own.search is None else faster(request)
    fits = fullest(ranks).needed <= room
    near = (
        []
        if fits
        else nearest(
            config,
            layout,
            room,
            lambda other: needed_within(room, model, other, kind),
            lambda other: step_time(work, other, device).seconds,
            devices_per_node=device.devices_per_node,
        )
    )
    title = f"{model.parameters / 1e9:.2f} B parameters on {layout.mesh}: {layout}, {layout.seq_length} tokens"
    parts = [
        title,
        f"Device: {device.name}, {device.memory_gib:g} GiB",
        f"Memory at the peak of each rank, in GiB:\n{report.memory_table(ranks)}",
        report.bars(ranks, room, sys.stdout.isatty()),
        report.parts_table(fullest(ranks)),
        report.moments_table(fullest(ranks)),
        f"Memory {report.verdict(ranks, room)}.",
        *([] if fits else [report.near_table(near, time.seconds)]),
        *speed_report.paragraphs(time, layout, tokens, own.price, found),
    ]
    print("\n\n".join(parts), flush=True)
    if own.picture:
        draw_memory(ranks, room, title, own.picture)
    if own.json:
        memory = report.as_values(ranks, room, near)
        speed = speed_report.as_values(time, layout, tokens, own.price, found)
        atomic_write_json(own.json, {"layout": str(layout), "memory": memory, "speed": speed})
    return 0 if fits else UNFIT


def faster(request: Request) -> List[Any]:
    """The fastest layouts of the same global batch that fit, as many as are asked for."""
    from paddlenlp.planning.search import Wanted, search

    layout, own = request.layout, request.own
    batch = layout.global_tokens // layout.seq_length
    wanted = Wanted(layout.mesh.world, batch, layout.seq_length, layout.dtype, max(1, own.search))
    return search(request.config, request.hardware, wanted)


if __name__ == "__main__":
    sys.exit(run_as_rank(main))
