"""A signal to one rank of two ends both at the same step, and what goes on from there is what would have been."""

from __future__ import annotations

import signal

from ranks import run_ranks

ACCUMULATED = {"gradient_accumulation_steps": 3, "per_device_train_batch_size": 1, "per_device_eval_batch_size": 1}
LAYOUTS = [
    ACCUMULATED,
    {**ACCUMULATED, "sharding": "stage2"},
    {**ACCUMULATED, "sharding": "stage3"},
    {**ACCUMULATED, "tensor_parallel_degree": 2},
    {**ACCUMULATED, "pipeline_parallel_degree": 2},
]
PHASES = ["micro batch", "evaluation", "data"]


def test_both_ranks_stop_at_one_step_and_the_run_goes_on_bitwise(tmp_path):
    payload = {"folder": str(tmp_path), "layouts": LAYOUTS, "phases": PHASES}
    first, second = run_ranks(2, "tests/parallel/work_signals.py:interrupted", payload)
    for number, layout in enumerate(LAYOUTS):
        # In a pipeline several micro batches are under way at a time: there the step is finished.
        steps = {"micro batch": 2 if "pipeline_parallel_degree" in layout else 1, "evaluation": 2, "data": 1}
        for phase, found, other in zip(PHASES, first[number], second[number]):
            where, step = (layout, phase), steps[phase]
            folder = tmp_path / str(number) / phase / f"checkpoint-{step}"
            said = f"{signal.SIGUSR1:d} stopped on SIGUSR1 at step {step} of 4. The same command goes on from {folder}."
            assert found["said"] == other["said"] == said, where
            assert found["evaluated"] == other["evaluated"] == [], where  # an evaluation is cut short
            assert found["left"] == other["left"] == [f"checkpoint-{step}", "checkpoint-4"], where
            assert found["equal"] and other["equal"], where
            assert found["curves"][0] == found["curves"][1] == other["curves"][0], where
