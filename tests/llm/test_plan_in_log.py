"""A run says beforehand what it will take, chooses its micro batch where asked, and says later how that compares."""

from __future__ import annotations

import json
import re

MIXED = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "max_steps": 21}
QUIET = {"do_eval": False, "do_predict": False, "save_strategy": "no"}


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line and "train_runtime" not in line]


def test_auto_micro_batch_changes_nothing_but_the_micro_batch(run_once):
    plain, first = run_once(**MIXED, **QUIET)
    chosen, second = run_once(**MIXED, **QUIET, auto_micro_batch=True)
    for done in (plain, chosen):
        assert re.search(r"Plan: [\d.]+ MiB of memory for each process", done.stderr), done.stderr
        assert re.search(r"After 20 steps: memory [\d.]+ MiB, planned .*tokens/s for each device, planned", done.stderr)
    assert "micro batch x accumulation = 8 x 1 (given: 2 x 4)" in chosen.stderr
    assert "global batch stays 8 samples" in chosen.stderr
    assert "Instantaneous batch size per device = 8" in chosen.stderr
    assert "Instantaneous batch size per device = 2" in plain.stderr
    recorded = json.loads((second / "run_config.json").read_text())["arguments"]
    assert recorded["per_device_train_batch_size"]["value"] == 8
    pairs = list(zip(losses(first), losses(second)))
    assert len(pairs) == 21
    # The same samples in each step; only the order of sums differs.
    assert all(abs(one - other) < 1e-4 for one, other in pairs), pairs


def test_all_ranks_choose_the_same_micro_batch(launch):
    job = launch(2, auto_micro_batch=True, tensor_parallel_degree=2, **{**MIXED, "max_steps": 1}, **QUIET)
    assert job.end() == 0, job.log(0)
    assert "micro batch x accumulation = 8 x 1 (given: 2 x 4)" in job.log(0) and "Plan: " in job.log(0)
    assert "Plan: " not in job.log(1)


def test_under_the_launcher_the_first_rank_rehearses_for_all(launch):
    job = launch(2, dry_run=True, tensor_parallel_degree=2)
    assert job.end() == 0, job.log(0)
    assert "2 processes = dp 1 x tp 2" in job.log(0) and "The dry run found nothing" in job.log(0)
    assert "arguments" not in job.log(1) and not (job.folder.parent / "out").exists()
