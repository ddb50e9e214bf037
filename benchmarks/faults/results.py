"""What the scripts of this folder found: one JSON file each in `results/`, from which `docs/reliability.md` is filled.

    from results import write

    write("kill", passed=True, figures={"kills": 50, ...}, en="50 of 50 ...", zh="50 次中 50 次……")

    python benchmarks/faults/results.py          # fill the column "measured" of docs/reliability.md and its twin
    python benchmarks/faults/results.py --check  # exit code 1 if a page is not what the results say

In the pages a cell is named by a comment, `<!-- measured: kill -->`; what follows it is replaced by the sentence
of `results/kill.json`, or by "not measured yet" where there is no such file.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import sys
from pathlib import Path
from typing import Any, Dict, Optional

ROOT = Path(__file__).resolve().parent.parent.parent
RESULTS = Path(__file__).with_name("results")
PAGES = {"en": ROOT / "docs/reliability.md", "zh": ROOT / "docs/reliability_zh.md"}
MISSING = {"en": "not measured yet", "zh": "尚未测量"}
CELL = re.compile(r"<!-- measured: (?P<name>\w+) -->(?P<text>[^|\n]*)")


def write(name: str, passed: bool, figures: Dict[str, Any], en: str, zh: str, folder: Optional[Path] = None) -> Path:
    """Save one result, and print it.

    Args:
        name: of the file, without its ending, and of the cell in the pages.
        passed: whether everything promised was found true.
        figures: what was counted and measured; JSON-able.
        en, zh: what the pages say, a short sentence with the figures; without "|" and line breaks.
        folder: where to save, instead of `results/`.

    Returns:
        The file.
    """
    if any(sign in text for text in (en, zh) for sign in "|\n"):
        raise ValueError(f"{name}: a sentence for a cell of a table holds no '|' and no line break")
    result = {
        "name": name,
        "passed": passed,
        "measured": {"en": en, "zh": zh},
        "date": datetime.date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "command": command(),
        **figures,
    }
    path = (folder or RESULTS) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
    print(text)
    return path


def command() -> str:
    """How this program was started, without this machine's paths."""
    words = ["DIR" if os.path.isabs(word) else word for word in sys.argv[1:]]
    return " ".join(["python", os.path.relpath(sys.argv[0], ROOT), *words])


def filled(page: str, language: str) -> str:
    """A page's text with its cells filled from the results."""

    def cell(found: re.Match) -> str:
        return f"<!-- measured: {found['name']} --> {sentence(found['name'], language)} "

    return CELL.sub(cell, page)


def sentence(name: str, language: str) -> str:
    """What a result says, with its date."""
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return MISSING[language]
    result = json.loads(path.read_text(encoding="utf-8"))
    return f"{result['measured'][language]} ({result['date']})"


def main() -> None:
    """Fill both pages, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 if a page is out of date")
    check, stale = parser.parse_args().check, []
    for language, path in PAGES.items():
        before = path.read_text(encoding="utf-8")
        after = filled(before, language)
        if before != after:
            stale.append(path.name)
            if not check:
                path.write_text(after, encoding="utf-8")
    print(f"{'Out of date' if check else 'Filled'}: {', '.join(stale) or 'nothing'}")
    sys.exit(bool(check and stale))


if __name__ == "__main__":
    main()
