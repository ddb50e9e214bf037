"""Says whether this machine, or the job of all machines, is fit to train; and what to do where it is not.

python llm/tools/doctor.py [CONFIG.json] [--output_dir DIR] [--input_dir DIR] [--device cpu] [--json]
python -m paddle.distributed.launch --nproc_per_node 8 llm/tools/doctor.py [CONFIG.json]

Each line says ok, warn or fail. Of CONFIG.json, the file of a run, only the folders and the device are read. Under the
launcher the ranks also compare clocks and check sums over all of them, on the very network that training would use.
Nothing stays behind. Exit code: 0, 1 if something fails, 2 for wrong input.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from paddlenlp.doctor import FAIL, OK, WARN, Finding, Visit, examine_job, examine_machine  # noqa: E402
from paddlenlp.parallel.failure import run_as_rank  # noqa: E402
from paddlenlp.utils.errors import UsageError  # noqa: E402
from paddlenlp.utils.files import parse_json  # noqa: E402

FAILED = 1


def command_line() -> argparse.ArgumentParser:
    """The tool's arguments."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    made.add_argument("config", nargs="?", type=Path, help="file of arguments of llm/run_pretrain.py")
    made.add_argument("--output_dir", help="folder to try writing in (default: the file's, else the present one)")
    made.add_argument("--input_dir", help="data to look for (default: the file's)")
    made.add_argument("--device", help="cpu, gpu or gpu:N (default: the file's, else a GPU if there is one)")
    made.add_argument("--trial_mb", type=int, default=64, help="megabytes of the file written (default: 64)")
    made.add_argument("--patience", type=float, default=60.0, help="seconds to wait for other ranks (default: 60)")
    made.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    return made


def visit_of(args: argparse.Namespace) -> Visit:
    """What to look at: the flags, and where they say nothing the file."""
    told = {} if args.config is None else _read(args.config)
    flags = {name: getattr(args, name) for name in ("output_dir", "input_dir", "device")}
    chosen = {name: flags[name] or told.get(name) for name in flags}
    if told.get("no_cuda") and not args.device:
        chosen["device"] = "cpu"
    given = {name: str(value) for name, value in chosen.items() if value}
    return Visit(**given, trial_bytes=max(1, args.trial_mb) << 20, patience=args.patience)


def _read(path: Path) -> Dict[str, Any]:
    try:
        found = parse_json(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} can't be read as a file of arguments: {error}") from None
    if not isinstance(found, dict):
        raise UsageError(
            f"{path} must hold a JSON object of arguments, such as llm/config/llama/pretrain_argument.json"
        )
    return found


class Report:
    """What is told: on the first rank, at once or as JSON at the end.

    Args:
        shown: whether this process tells at all.
        as_json: whether as one JSON object.
    """

    def __init__(self, shown: bool, as_json: bool) -> None:
        self.shown, self.as_json = shown, as_json
        self.findings: List[Finding] = []

    def add(self, finding: Finding) -> None:
        """Note a finding."""
        self.findings.append(finding)
        if self.shown and not self.as_json:
            print(finding.line(), flush=True)

    def count(self, state: str) -> int:
        """How many there are of a state."""
        return sum(finding.state == state for finding in self.findings)

    def end(self) -> None:
        """The last word."""
        counts = {state: self.count(state) for state in (OK, WARN, FAIL)}
        if not self.shown:
            return
        if self.as_json:
            listed = [finding._asdict() for finding in self.findings]
            print(json.dumps({"fit": not counts[FAIL], **counts, "findings": listed}, indent=2), flush=True)
        else:
            verdict = "not fit to train" if counts[FAIL] else "fit to train"
            print(f"\n{verdict}: {counts[OK]} ok, {counts[WARN]} warn, {counts[FAIL]} fail", flush=True)


def main(argv: Optional[Sequence[str]] = None) -> int:
    """One visit; the exit code.

    Raises:
        UsageError: wrong input; the message says what to do.
    """
    args = command_line().parse_args(argv)
    visit = visit_of(args)
    report = Report(visit.process_index == 0, args.json)
    for finding in examine_machine(visit):
        report.add(finding)
    for finding in examine_job(visit, list(report.findings)):
        report.add(finding)
    report.end()
    return FAILED if report.count(FAIL) else 0


def run() -> None:
    """`main` as a rank: its exit code is the process's."""
    code = main()
    if code:
        raise SystemExit(code)


if __name__ == "__main__":
    sys.exit(run_as_rank(run))
