"""The Trainer on two ranks: every rank logs the same numbers, which are those of one process."""

from __future__ import annotations

import pytest
from ranks import run_ranks
from work_trainer import tiny_run, trained

from paddlenlp.parallel import topology

LAYOUTS = [
    {"per_device_eval_batch_size": 1},
    {"per_device_eval_batch_size": 1, "sharding": "stage1"},
    {"per_device_eval_batch_size": 1, "sharding": "stage3"},
    {"tensor_parallel_degree": 2, "per_device_train_batch_size": 4},
    {"pipeline_parallel_degree": 2, "gradient_accumulation_steps": 2},
]


def test_training_and_evaluation_are_those_of_one_process(tmp_path):
    payload = {"folder": str(tmp_path), "layouts": LAYOUTS}
    first, second = run_ranks(2, "tests/parallel/work_trainer.py:runs", payload)
    batches = {"per_device_train_batch_size": 4}
    plain, rounded = (trained(str(tmp_path), bf16_full_eval=full, **batches) for full in (False, True))
    assert plain["loss"] == rounded["loss"] and plain["eval_loss"] != rounded["eval_loss"]
    for layout, ranks in zip(LAYOUTS, zip(first, second)):
        for found, other in zip(*ranks):
            assert other.pop("speed") == [] and len(found.pop("speed")) == 3, layout  # measured where it is logged
            assert found == other, layout  # all ranks go by the same numbers
            assert found["loss"] == pytest.approx(plain["loss"], rel=1e-5), layout
            assert found["grad_norm"] == pytest.approx(plain["grad_norm"], rel=1e-4), layout
            assert found["tokens"] == plain["tokens"], layout
        exact, full = ranks[0]
        assert exact["loss"] == full["loss"], layout  # evaluating in bfloat16 leaves no trace
        assert exact["eval_loss"] == pytest.approx(plain["eval_loss"], rel=1e-5), layout
        # Weights that differ in their last bit may round to neighbours: nearer to the rounded one than to the exact.
        gaps = [abs(a - b) for a, b in zip(full["eval_loss"], rounded["eval_loss"])]
        assert max(gaps) < max(abs(a - b) for a, b in zip(plain["eval_loss"], rounded["eval_loss"])), layout


def test_all_ranks_must_see_the_checkpoint_to_go_on_from(tmp_path):
    assert topology().world.size == 1
    run = tiny_run(str(tmp_path / "here"))
    run.trainer(max_steps=2).train()
    payload = {"folder": str(tmp_path / "here"), "elsewhere": str(tmp_path / "nowhere")}
    first, second = run_ranks(2, "tests/parallel/work_trainer.py:resuming", payload)
    assert first == second and first[0][0] == first[1][0] == "UsageError"
    assert "Rank 1" in first[0][1] and "output_dir must be on a file system all machines see" in first[0][1]
    assert "nowhere is not a whole checkpoint" in first[1][1]
