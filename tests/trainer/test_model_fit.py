"""A model is checked against the layout before anything takes long."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from paddlenlp.trainer import PreTrainingArguments
from paddlenlp.trainer.model_fit import check_model_fits
from paddlenlp.utils.errors import UsageError

SHAPE = {
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
}


@pytest.fixture
def check(monkeypatch):
    """check(world, changes of the shape, **arguments)"""

    def run(world, shape, **given):
        monkeypatch.setenv("PADDLE_TRAINERS_NUM", str(world))
        check_model_fits(SimpleNamespace(**{**SHAPE, **shape}), PreTrainingArguments("out", **given))

    return run


@pytest.mark.parametrize(
    ("world", "shape", "given"),
    [
        (1, {}, {}),
        (4, {}, {"tensor_parallel_degree": 4}),  # two ranks hold each key head
        (2, {"num_key_value_heads": 4}, {"tensor_parallel_degree": 2}),
        (8, {}, {"tensor_parallel_degree": 2, "sep_parallel_degree": 4}),
        (3, {"vocab_size": 101, "intermediate_size": 7}, {}),
        (4, {}, {"pipeline_parallel_degree": 4}),
        (2, {}, {"pipeline_parallel_degree": 2, "virtual_pp_degree": 2}),
        (1, {"num_hidden_layers": 1}, {"virtual_pp_degree": 2}),
        (4, {"num_experts": 8}, {"expert_parallel_degree": 4}),
        (2, {"n_routed_experts": None, "moe_intermediate_size": None}, {"tensor_parallel_degree": 2}),
    ],
)
def test_what_fits(check, world, shape, given):
    check(world, shape, **given)


@pytest.mark.parametrize(
    ("world", "shape", "given", "words"),
    [
        (3, {"vocab_size": 3, "intermediate_size": 3, "num_key_value_heads": 3}, {"tensor_parallel_degree": 3},
         "num_attention_heads 8 is not a multiple of tensor_parallel_degree = 3; that may be 1, 2, 4 or 8"),
        (16, {}, {"tensor_parallel_degree": 4, "sep_parallel_degree": 4},
         "multiple of tensor_parallel_degree x sep_parallel_degree = 16"),
        (4, {"num_key_value_heads": 3}, {"tensor_parallel_degree": 4},
         "num_key_value_heads 3 is neither a multiple nor a divisor of tensor_parallel_degree 4"),
        (2, {"vocab_size": 101}, {"tensor_parallel_degree": 2}, "vocab_size 101 is not a multiple of"),
        (2, {"intermediate_size": 47}, {"tensor_parallel_degree": 2}, "intermediate_size 47 is not a multiple of"),
        (2, {"moe_intermediate_size": 9}, {"tensor_parallel_degree": 2}, "moe_intermediate_size 9 is not"),
        (4, {"num_local_experts": 6}, {"expert_parallel_degree": 4}, "6 experts can't be dealt out evenly over 4"),
        (4, {}, {"use_expert_parallel": True}, "there are no experts to deal out over 4 ranks"),
        (8, {}, {"pipeline_parallel_degree": 8}, "num_hidden_layers 4 is less than pipeline_parallel_degree 8: each"),
        (4, {}, {"pipeline_parallel_degree": 4, "virtual_pp_degree": 2},
         "less than pipeline_parallel_degree 4 x virtual_pp_degree 2"),
    ],
)  # fmt: skip
def test_what_does_not(check, world, shape, given, words):
    with pytest.raises(UsageError) as caught:
        check(world, shape, **given)
    heading, line = str(caught.value).splitlines()
    assert heading.startswith(f"The model can't be shared out over {world} processes = ")
    assert words in line


def test_all_of_it_is_listed(check):
    with pytest.raises(UsageError) as caught:
        check(6, {"num_hidden_layers": 1}, tensor_parallel_degree=3, pipeline_parallel_degree=2)
    assert len(str(caught.value).splitlines()) == 5
