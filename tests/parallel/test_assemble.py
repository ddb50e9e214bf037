"""Values exchanged between ranks, errands of the first one, and tensors put together of what two ranks hold."""

from __future__ import annotations

import pytest
from ranks import run_ranks

from paddlenlp.parallel.assemble import Assembly, Part, Whole
from paddlenlp.parallel.errand import first_does
from paddlenlp.parallel.holdings import stage_order


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    payload = {"folder": str(tmp_path_factory.mktemp("assemble"))}
    return run_ranks(2, "tests/parallel/work_assemble.py:everything", payload)


def test_values_of_all_ranks_and_of_the_first(ranks):
    for rank, found in enumerate(ranks):
        assert [value["rank"] for value in found["objects"]["everyones"]] == [0, 1]
        assert [len(value["long"]) for value in found["objects"]["everyones"]] == [0, 1000]
        assert found["objects"]["at_first"] == (None if rank else [["é", 0], ["é", 1]])
        assert found["objects"]["from_first"] == {"from": 0}
        assert found["objects"]["for_each"] == ["é", {"long": "x" * 1000}][rank]


def test_the_first_rank_does_it_and_all_hear_the_outcome(ranks):
    for rank, found in enumerate(ranks):
        errand = found["errand"]
        assert errand["done"] == {"who": 0} and errand["after"] == "still together"
        assert errand["refused"] == "UsageError: disk full"
        kind = "UsageError: ZeroDivisionError" if rank else "ZeroDivisionError"
        assert errand["broken"] == f"{kind}: integer division or modulo by zero"


def test_signs_of_life_are_sent_while_it_takes_long(ranks):
    assert ranks[0]["errand"]["beats"] >= 3 and ranks[1]["errand"]["beats"] == 0


def test_an_interrupted_errand_ends_for_all(ranks):
    assert ranks[0]["errand"]["interrupted"] == ["the errand hears of it", "KeyboardInterrupt: "]
    assert ranks[1]["errand"]["interrupted"] == ["UsageError: KeyboardInterrupt: "]


def test_files_of_cut_tensors_equal_those_of_whole_ones(ranks):
    assert ranks[0]["assembly"]["equal"]
    assert ranks[0]["assembly"]["listed"] == ["columns", "fused", "heads", "number", "rows", "whole"]
    assert ranks[1]["assembly"]["listed"] == []


def test_only_what_rank_0_lacks_is_sent(ranks):
    # half of rows, columns and fused; of heads two of the query heads and both copies
    elements = 6 + 12 + 12 + 2 * (4 + 4 + 4)
    assert ranks[1]["assembly"]["sent"] == 4 * elements


def test_a_failed_write_fails_everywhere_and_the_next_succeeds(ranks):
    error = "OSError: [Errno 28] No space left on device"
    assert [found["assembly"]["failed"] for found in ranks] == [error, f"UsageError: {error}"]
    assert ranks[0]["assembly"]["again"] == ranks[1]["assembly"]["again"] != 0


def test_pieces_are_joined_and_what_nobody_holds_is_named(ranks):
    for found in ranks:
        assert found["shared"]["shared"] == [[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]
        assert found["shared"]["alone"] == [[3.0, 3.0], [3.0, 3.0]]
        assert found["shared"]["half"] == "RuntimeError: no rank holds element 0 of half, of 4 in a share"


def test_one_process_needs_no_thread_and_copies_nothing():
    import threading

    import paddle

    x = paddle.ones([2, 3])
    content = Assembly({"model": [Part(Whole("x", (2, 3), (2, 3), "float32"), 0, 6, lambda: x)]}, str)
    made = content.write(lambda: content.tensors["model"]["x"].make())
    assert made.data_ptr() == x.data_ptr() and made.shape == [2, 3]
    assert first_does(threading.current_thread) is threading.main_thread()


def test_files_are_ordered_by_stage_then_by_name_with_numbers_by_value():
    from paddlenlp.transformers import LlamaConfig, LlamaForCausalLM

    sizes = dict(vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=11, num_attention_heads=2)
    model = LlamaForCausalLM.from_config(LlamaConfig(**sizes))
    names = [name for name, _ in model.named_parameters()]
    ordered = sorted(reversed(names), key=stage_order(model))
    layers = [name.split(".")[2] for name in ordered if ".layers." in name]
    assert list(dict.fromkeys(layers)) == [str(index) for index in range(11)]
    assert ordered[0] == "llama.embed_tokens.weight" and ordered[-2:] == ["llama.norm.weight", "lm_head.weight"]
    assert sorted([f"{name}/moment1_0" for name in names], key=stage_order(model))[-1] == "lm_head.weight/moment1_0"
