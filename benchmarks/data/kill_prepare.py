"""Kills create_pretraining_data.py at random moments and runs it again: the files must be those of a run left alone.

    python benchmarks/data/kill_prepare.py [--kills 20] [--megabytes 12] [--seed 1] [--out result.json]

Every dataset is made with one to three workers, chosen at random, again after every kill. A third of the datasets are
killed more than once. Workers of a killed process must end by themselves.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List

sys.path.insert(0, str(Path(__file__).resolve().parent))

from generated import TOOL, write_text, write_tokenizer  # noqa: E402
from prepare_memory import children  # noqa: E402


class Campaign:
    """Datasets made under fire in `folder`.

    Attributes:
        kills: so far.
        resumed: kills after which the next run went on with documents of the killed one.
    """

    def __init__(self, folder: Path, size: int, seed: int) -> None:
        self.folder, self.rng = folder, random.Random(seed)
        self.kills = self.resumed = 0
        write_tokenizer(folder / "tokenizer", 2000)
        write_text(folder / "text.jsonl", size)
        start = time.perf_counter()
        self.finish("alone", workers=1)
        self.seconds = time.perf_counter() - start

    def start(self, name: str, workers: int) -> subprocess.Popen:
        words = ["--tokenizer_name_or_path", self.folder / "tokenizer", "--input_path", self.folder / "text.jsonl"]
        words += ["--output_prefix", self.folder / name, "--append_eos", "--workers", workers]
        words += ["--sync_interval", 0.05, "--log_interval", 10**9]
        command = [sys.executable, str(TOOL), *map(str, words)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def finish(self, name: str, workers: int) -> str:
        """Run to the end; what it said on standard error."""
        process = self.start(name, workers)
        said = process.communicate(timeout=3600)[1]
        assert process.returncode == 0, said
        return said

    def kill_once(self, name: str) -> None:
        """Start, and kill after a random part of the time that a whole run takes."""
        process = self.start(name, self.rng.randint(1, 3))
        try:
            process.wait(self.rng.uniform(0.05, 1.0) * self.seconds)
        except subprocess.TimeoutExpired:
            workers = children(process.pid)
            process.kill()
            self.kills += 1
            await_end(workers)
        process.communicate()

    def make_under_fire(self, name: str, times: int) -> None:
        """One dataset, killed up to `times` times, then compared."""
        for _ in range(times):
            self.kill_once(name)
        said = self.finish(name, self.rng.randint(1, 3))
        self.resumed += "going on after" in said
        for suffix in (".bin", ".idx"):
            same = (self.folder / f"{name}{suffix}").read_bytes() == (self.folder / f"alone{suffix}").read_bytes()
            assert same, f"{name}{suffix} differs after a kill"
            (self.folder / f"{name}{suffix}").unlink()
        assert not (self.folder / f"{name}.parts").exists()


def await_end(pids: List[int], limit: float = 30) -> None:
    """Wait until the processes have ended.

    Raises:
        AssertionError: one has not, after `limit` seconds.
    """
    start = time.monotonic()
    while any(Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids):
        assert time.monotonic() - start < limit, f"workers outlive the process that was killed: {pids}"
        time.sleep(0.05)


def campaign(folder: Path, kills: int, size: int, seed: int) -> Dict[str, Any]:
    """Counts of a whole campaign.

    Raises:
        AssertionError: a dataset differs, a run failed, or a worker lives on.
    """
    made = Campaign(folder, size, seed)
    datasets = 0
    while made.kills < kills:
        made.make_under_fire(f"fire{datasets}", 1 if made.rng.random() < 0.67 else min(3, kills - made.kills))
        datasets += 1
    return {"kills": made.kills, "datasets": datasets, "went_on": made.resumed, "differences": 0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--megabytes", type=int, default=12, help="size of the text")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", help="JSON file for the result")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = campaign(Path(folder), args.kills, args.megabytes * 1_000_000, args.seed)
    result = {"date": time.strftime("%F"), "seed": args.seed, "megabytes": args.megabytes, **result}
    print(result)
    if args.out:
        Path(args.out).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
