"""A rank of two hosts with two ranks each: `work_shared_storage.py TOP` finds out in each case who builds the index."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any, Dict, List

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

RANK = int(os.environ.get("PADDLE_TRAINER_ID") or 0)
CASES = {f"{kind} {flag}": (kind, flag) for kind in ("shared", "separate") for flag in (True, False)}
"""Name -> (how the data lies, share_folder)."""


def place(top: Path, name: str, kind: str) -> Path:
    """Where this rank's data is: each host has a folder of its own, or both have the same."""
    return top / name / ("host0" if kind == "shared" else f"host{RANK // 2}")


def main() -> None:
    """Leave what was found in TOP/rank{n}.json."""
    from paddlenlp.data import build_train_valid_test_datasets
    from paddlenlp.data.pretraining_data import written_folders
    from paddlenlp.data.shared_storage import builds_index
    from paddlenlp.parallel.objects import everyones
    from paddlenlp.parallel.socket_group import SocketGroup
    from paddlenlp.utils.log import logger

    group = SocketGroup("world", range(4), RANK)
    top, found = Path(sys.argv[1]), {}
    warnings: List[str] = []
    logger.warning = warnings.append  # type: ignore[method-assign, assignment]
    for name, (kind, flag) in CASES.items():
        os.chdir(place(top, name, kind))
        prefix = ["data/text"]
        builder = builds_index(written_folders(prefix, None), flag, lambda value: everyones(value, group))
        train, _, _ = build_train_valid_test_datasets(
            prefix, "mmap", "1", [40, 0, 0], 4, 42, share_folder=flag, is_builder=builder
        )
        assert train is not None
        order = hashlib.sha256(train.shuffle_idx.tobytes()).hexdigest()
        everyones(0, group)
        found[name] = _findings(builder, order, warnings)
    (top / f"rank{RANK}.json").write_text(json.dumps(found))


def _findings(builder: bool, order: str, warnings: List[str]) -> Dict[str, Any]:
    said, warnings[:] = list(warnings), []
    return {"builder": builder, "order": order, "warnings": said, "files": sorted(os.listdir("data/index-cache"))}


if __name__ == "__main__":
    main()
