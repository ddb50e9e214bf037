"""What the ranks of a job do each for itself and go on from together, and what they count together."""

from __future__ import annotations

import pytest
from ranks import run_ranks

from paddlenlp.parallel.agree import all_do


def test_one_process_just_does_it():
    assert all_do(lambda: 3) == 3
    with pytest.raises(ValueError, match="no"):
        all_do(lambda: int("no"))


def test_all_go_on_together_or_fail_together():
    first, second = run_ranks(2, "tests/parallel/work_agree.py:all_do")
    assert (first["value"], second["value"]) == (0, 10)
    assert first["left"] >= second["over"]  # none goes on before the slow one is ready: one machine, one clock
    assert second["failing"] == ["ValueError", "no room"]  # its own error on the rank that failed
    assert first["failing"] == ["UsageError", "ValueError: no room"]
    assert first["endless"] == ["ValueError", "gone"]
    assert second["endless"] == ["UsageError", "ValueError: gone"]


CASES = [
    [{}, 7],
    [{}, 16],
    [{"tensor_parallel_degree": 2}, 7],
    [{"sharding": "stage1", "dataloader_drop_last": True}, 7],
    [{"pipeline_parallel_degree": 2, "virtual_pp_degree": 2, "gradient_accumulation_steps": 4}, 14],
    [{"pipeline_parallel_degree": 2, "gradient_accumulation_steps": 4}, 14],
]


def test_evaluation_and_tokens_are_summed_over_the_ranks_that_read_different_data():
    """Sample i has loss i: the mean says which samples were read. A rest that can't be shared out is left out."""
    for cases in zip(*run_ranks(2, "tests/parallel/work_agree.py:evaluations", CASES), CASES):
        *ranks, (degrees, size) = cases
        data = 1 if {"tensor_parallel_degree", "pipeline_parallel_degree"} & set(degrees) else 2
        used = size - size % data
        for loss, samples, ticks, planned, read, tokens, step in ranks:
            assert (loss, samples) == ((used - 1) / 2, used), degrees
            assert ticks == planned == -(-used // (2 * data))
            assert tokens == 4 * (step * data - 1)  # all but those of sample 0, which look like padding
            assert [len(part) for part in read] == [len(part) for part in ranks[0][4]]
        together = sorted(sample for rank in ranks[:data] for part in rank[4] for sample in part)
        wanted = {"dataloader_drop_last": size // 4 * 4, "virtual_pp_degree": 8}
        assert together == list(range(next((wanted[name] for name in wanted if name in degrees), used))), degrees
