"""Run the tests behind those promises of docs/reliability.md that have no campaign of their own, and count what passes.

    python benchmarks/faults/checks.py [NAME ...]    # all: 3 minutes on two idle cores

The result of each goes to results/NAME.json.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any, Dict, List, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))

from results import ROOT, write  # noqa: E402


class Check(NamedTuple):
    """Tests, and what one passing test of them is called."""

    tests: List[str]
    en: str
    zh: str


CHECKS = {
    "layouts": Check(["tests/parallel/test_reshard_matrix.py"], "checks of the matrix", "项矩阵检查"),
    "reference": Check(["tests/trainer/test_reference_checkpoint.py"], "checks", "项检查"),
    "rotation": Check(["tests/checkpoint/test_schedules.py"], "checks", "项检查"),
    "tools": Check(["tests/checkpoint/test_main.py", "tests/transformers/test_convert.py"], "checks", "项检查"),
    "numbers": Check(["tests/trainer/test_bad_steps.py", "tests/parallel/test_bad_steps.py"], "cases", "种情形"),
    "retries": Check(["tests/utils/test_retries.py"], "checks", "项检查"),
    "safety": Check(["tests/test_safety.py"], "files and payloads", "项文件与载荷检查"),
}


def run(check: Check) -> Dict[str, Any]:
    """How many of the tests pass, and which do not."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--junitxml={report}", *check.tests]
        subprocess.run(command, cwd=ROOT, check=False, stdout=sys.stderr)
        cases = list(ElementTree.parse(report).iter("testcase"))
    bad = [
        f"{case.get('classname')}::{case.get('name')}" for case in cases if case.find("skipped") is None and len(case)
    ]
    skipped = [str(case.get("name")) for case in cases if case.find("skipped") is not None]
    seconds = round(time.monotonic() - began)
    return {
        "tests": check.tests,
        "run": len(cases) - len(skipped),
        "failed": bad,
        "skipped": skipped,
        "seconds": seconds,
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CHECKS)}")
    names = parser.parse_args().names or list(CHECKS)
    unknown = sorted(set(names) - set(CHECKS))
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(CHECKS)}")
    passed = []
    for name in names:
        found, check = run(CHECKS[name]), CHECKS[name]
        passed.append(found["run"] > 0 and not found["failed"])
        good, total = found["run"] - len(found["failed"]), found["run"]
        write(name, passed[-1], found, f"{good} of {total} {check.en} pass", f"{total} {check.zh}中 {good} 项通过")
    sys.exit(not all(passed))


if __name__ == "__main__":
    main()
