"""Models in pipelines against the same models in one process: losses, gradients, names, sizes, texts, bit for bit."""

from __future__ import annotations

import paddle
import pytest
from paddle.base import core
from ranks import run_ranks

from paddlenlp.parallel.pipeline import _Root

TIED = {"tie_word_embeddings": True}
# name -> (setting, configuration, rows of the micro batches)
TWO = {
    "1 micro batch": ({"pp": 2}, {}, [2]),
    "2 micro batches": ({"pp": 2}, {}, [1, 2]),
    "3 micro batches": ({"pp": 2}, {}, [2, 1, 1]),
    "5 micro batches": ({"pp": 2}, {}, [1, 1, 2, 1, 1]),
    "tied": ({"pp": 2}, TIED, [1, 2, 1]),
    "5 layers": ({"pp": 2}, {"num_hidden_layers": 5}, [1, 1, 1]),
    "interleaved": ({"pp": 2, "chunks": 2}, {}, [1, 1, 2, 1]),
    "interleaved, tied, 5 layers": ({"pp": 2, "chunks": 2}, {**TIED, "num_hidden_layers": 5}, [2, 1]),
    "large vocabulary": ({"pp": 2}, {"vocab_size": 2048}, [1, 1]),
    "positions and masks": ({"pp": 2}, {"masked": True}, [2, 1]),
    "bfloat16": ({"pp": 2, "low": True}, {}, [1, 1, 1]),
    "Bloom": ({"pp": 2}, {"family": "Bloom", "n_layer": 3, "n_head": 4}, [1, 2]),
    "experts": ({"pp": 2}, {"family": "Mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}, [1, 2]),
    "full recompute": ({"pp": 2, "recompute": {"enabled": True, "interval": 3}}, {}, [1, 1, 1]),
    "core_attn recompute": (
        {"pp": 2, "chunks": 2, "recompute": {"enabled": True, "granularity": "core_attn", "use_reentrant": True}},
        {},
        [1, 1],
    ),
}
FOUR = {
    "1 micro batch": ({"pp": 4}, {}, [2]),
    "5 micro batches": ({"pp": 4}, {}, [1, 1, 1, 1, 1]),
    "7 layers, tied": ({"pp": 4}, {**TIED, "num_hidden_layers": 7}, [1, 1, 1]),
    "interleaved": ({"pp": 4, "chunks": 2}, {"num_hidden_layers": 9}, [1] * 4),
    "tp2 pp2": ({"pp": 2, "tp": 2}, {}, [1, 2]),
    "tp2 pp2, tied": ({"pp": 2, "tp": 2}, TIED, [1, 2, 1]),
    "tp2+sp pp2, interleaved": ({"pp": 2, "tp": 2, "sp": True, "chunks": 2}, {}, [1, 2]),
}
PARTIAL = {"setting": {"pp": 2, "tp": 2}, "config": {}, "rows": [[1, 2], [2, 2, 1]]}


@pytest.fixture(scope="module")
def two():
    return run_ranks(2, "tests/parallel/work_pipeline.py:two", {"cases": list(TWO.values())})


@pytest.fixture(scope="module")
def four():
    payload = {"cases": list(FOUR.values()), "partial": PARTIAL}
    return run_ranks(4, "tests/parallel/work_pipeline.py:four", payload)


def check(results, setting, config):
    """What every rank found in one case."""
    for found in results:
        # Loss, size and texts.
        assert found["part"] == found["whole"]
        (loss, kept), found_eval = found["eval"]
        assert found_eval == [pytest.approx(loss, rel=1e-6), kept]  # in a pipeline its rows are summed by part
        # A pipeline changes no arithmetic, but for the order in which the gradients of a tied table are summed.
        assert found["not bitwise"] in ([], found["tied ends"])
        assert found["worst"] < 1e-6 and found["same start"]
    assert {name for found in results for name in found["names"]} == set(results[0]["all names"])
    ends = [bool(found["tied ends"]) for found in results]
    tp, tied = setting.get("tp", 1), config.get("tie_word_embeddings", "Bloom" in config.values())
    assert ends == [tied and rank // tp in (0, setting["pp"] - 1) for rank in range(len(results))]


@pytest.mark.parametrize("name", TWO)
def test_two_ranks(two, name):
    setting, config, _ = TWO[name]
    check([rank["compare"][list(TWO).index(name)] for rank in two], setting, config)


@pytest.mark.parametrize("name", FOUR)
def test_four_ranks(four, name):
    setting, config, _ = FOUR[name]
    check([rank["compare"][list(FOUR).index(name)] for rank in four], setting, config)


def test_stages_and_their_indices(two, four):
    def of(results, cases, name, key):
        return [rank["compare"][list(cases).index(name)][key] for rank in results]

    assert of(two, TWO, "5 layers", "indices") == [[0, 1, 2], [3, 4]]
    assert of(two, TWO, "large vocabulary", "indices") == [[0, 1, 2], [3]]
    assert of(two, TWO, "interleaved, tied, 5 layers", "stages") == [
        [["llama.embed_tokens", "llama.layers.0", "llama.layers.1"], ["llama.layers.3"]],
        [["llama.layers.2"], ["llama.layers.4", "llama.norm", "lm_head"]],
    ]
    assert of(four, FOUR, "7 layers, tied", "indices") == [[0, 1], [2, 3], [4, 5], [6]]
    (first, *_), tied = of(four, FOUR, "7 layers, tied", "tied ends"), "llama.embed_tokens.weight"
    assert first == [tied] and of(four, FOUR, "7 layers, tied", "tied ends") == [[tied], [], [], [tied]]


def test_parts_of_the_rows_give_the_same_bits(four):
    for rank in four:
        assert rank["partial"]["same"] == [True, True]
        for with_parts, whole in rank["partial"]["bytes"]:
            assert 2 * with_parts == whole > 0


def test_layers_recompute_by_their_place_in_the_whole_model(two):
    assert [rank["recomputed"] for rank in two] == [[0], [3]]


def test_refusals(two):
    for rank in two:
        said = rank["refusals"]
        assert "pipeline_parallel_degree=2" in said["forward"] and "train_batch" in said["forward"]
        assert said["no head"].startswith("LlamaModel has no head")
        assert "4 decoder layers" in said["few layers"] and "= 6 parts" in said["few layers"]
        assert "a step has 3" in said["odd micro batches"]


def test_all_ranks_draw_the_same_text_and_the_first_logs_it(two):
    first, second = (rank["draws"] for rank in two)
    assert first["ids"] == second["ids"] and len(first["ids"][0]) == 11
    assert len(first["lines"]) == 1 and first["lines"][0].startswith("Sample before training: '1 2 3 ")
    assert second["lines"] == []


def test_what_was_sent_is_not_kept():
    def used():
        return core.host_memory_stat_current_value("Allocated", 0)

    x, answer = paddle.randn([256, 256]), []
    x.stop_gradient = False
    before = used()
    root = _Root.apply(x * 2, answer)
    assert used() - before < 256 * 256
    answer.append(paddle.full([256, 256], 3.0))
    paddle.autograd.backward([root])
    assert float((x.grad - 6).abs().max()) == 0
