"""Several runs of run_pretrain.py in one process: `python work_configs.py FILE`, with the command lines in FILE."""

from __future__ import annotations

import importlib.util
import json
import sys
import traceback
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "llm/run_pretrain.py"


def main() -> None:
    """Run each command line; leave in FILE what went wrong, or null, for each."""
    spec = importlib.util.spec_from_file_location("run_pretrain", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    path = Path(sys.argv[1])
    path.write_text(json.dumps([failure(script.main, argv) for argv in json.loads(path.read_text())]))


def failure(run, argv):
    try:
        run(argv)
    except Exception:
        return traceback.format_exc()
    return None


if __name__ == "__main__":
    main()
