"""Tensor and sequence parallelism on 2 and 4 processes against one: losses, gradients, what is sent, dropout."""

from __future__ import annotations

import pytest
from ranks import run_ranks

LAYERS, TOKENS, HIDDEN, FLOAT = 2, 16, 32, 4

GROUPED = {"num_key_value_heads": 2}
SINGLE_KEY = {"num_key_value_heads": 1}
BIASES = {"attention_bias": True, "mlp_bias": True}
FUSED = {"fuse_attention_qkv": True, "fuse_attention_ffn": True}
TIED = {"num_key_value_heads": 4, "tie_word_embeddings": True}

MODELS = {
    "grouped": GROUPED,
    "grouped, biases, fused": {**GROUPED, **BIASES, **FUSED},
    "single key": SINGLE_KEY,
    "single key, biases": {**SINGLE_KEY, **BIASES},
    "single key, biases, fused": {**SINGLE_KEY, **BIASES, **FUSED},
    "tied": TIED,
}

RECOMPUTE = {
    f"recompute {granularity}, {'reentrant' if reentrant else 'recorded'}, sp {sp}": {
        "model": {**GROUPED, **BIASES},
        "sp": sp,
        "recompute": (granularity, reentrant),
    }
    for granularity in ("full", "full_attn", "core_attn")
    for reentrant in (False, True)
    for sp in (False, True)
}

CASES = {
    **{f"{name}, sp {sp}": {"model": model, "sp": sp} for name, model in MODELS.items() for sp in (False, True)},
    **RECOMPUTE,
    **{f"bf16, sp {sp}": {"model": GROUPED, "sp": sp, "dtype": "bfloat16"} for sp in (False, True)},
}

TRAFFIC = {
    **{name: CASES[name] for name in ("tied, sp False", "tied, sp True")},
    "recompute full": {**CASES["tied, sp False"], "recompute": ("full", False)},
    "recompute full, sp": {**CASES["tied, sp True"], "recompute": ("full", False)},
    "copies": CASES["single key, biases, sp False"],
}


@pytest.fixture(scope="module", params=[2, 4])
def ranks(request):
    """What every rank of a launch found."""
    payload = {"cases": CASES, "traffic": TRAFFIC}
    return run_ranks(request.param, "tests/parallel/work_tensor.py:main", payload)


def test_losses_are_those_of_one_process(ranks):
    for found in ranks:
        for name, case in found["cases"].items():
            assert case["loss"] < (2e-3 if "bf16" in name else 1e-6), name


def test_gradients_are_those_of_one_process(ranks):
    for name, case in ranks[0]["cases"].items():
        assert case["names"] and len(case["gradients"]) > 15
        for param, gap in case["gradients"].items():
            assert gap < (3e-2 if "bf16" in name else 1e-5), f"{name}: {param}"


def test_initial_weights_are_those_of_one_process(ranks):
    assert {case["weights"] for case in ranks[0]["cases"].values()} == {0.0}


def test_every_element_counts_once_in_the_norm(ranks):
    gaps = {name: case["squares"] for name, case in ranks[0]["cases"].items() if "squares" in case}
    assert len(gaps) > 6
    for name, gap in gaps.items():
        assert gap < (1e-2 if "bf16" in name else 2e-6), name


def test_what_is_sent(ranks):
    """2 sums a layer and pass, and one each for token table and head; under sequence parallelism each is a
    reduce-scatter, and an all-gather for its input, which the backward pass does again."""
    size, found = len(ranks), ranks[0]["traffic"]
    whole, part = TOKENS * HIDDEN * FLOAT, TOKENS * HIDDEN * FLOAT // size
    kept = found["tied, sp False"]["forward"]["all_gather bytes"]
    assert kept % (3 * FLOAT) == 0 and 0 < kept // (3 * FLOAT) < TOKENS  # three numbers of each token that counts
    sums, loss = 2 * LAYERS + 1, {"all_gather": 1, "all_gather bytes": kept}
    assert found["tied, sp False"] == {
        "forward": {"all_reduce": sums, "all_reduce bytes": sums * whole, **loss},
        "backward": {"all_reduce": sums, "all_reduce bytes": sums * whole},
    }
    gathers, again = 2 * LAYERS + 1, 4 * LAYERS + 1
    scattered = {"reduce_scatter": sums, "reduce_scatter bytes": sums * whole}
    assert found["tied, sp True"] == {
        "forward": {**scattered, "all_gather": gathers + 1, "all_gather bytes": gathers * part + kept},
        "backward": {**scattered, "all_gather": again, "all_gather bytes": again * part},
    }


def test_what_recomputation_sends(ranks):
    """The forward passes of the layers once more."""
    found = ranks[0]["traffic"]
    assert found["recompute full"]["backward"]["all_reduce"] == 4 * LAYERS + 1
    assert found["recompute full, sp"]["backward"] == {
        **found["recompute full, sp"]["backward"],
        "reduce_scatter": 4 * LAYERS + 1,
        "all_gather": 6 * LAYERS + 1,
    }


def test_copied_heads_cost_one_more_sum(ranks):
    found, head = ranks[0]["traffic"]["copies"]["backward"], HIDDEN // 4
    copied = LAYERS * 2 * (HIDDEN + 1) * head * FLOAT  # key and value, matrix and bias
    sums = 2 * LAYERS + 1
    assert found == {
        "all_reduce": sums + LAYERS,
        "all_reduce bytes": sums * TOKENS * HIDDEN * FLOAT + copied,
    }


def test_logits(ranks):
    """`parallel_output` leaves them cut; without it they and their gradients are those of one process."""
    for found in ranks:
        assert len(found["logits"]) == 8
        for name, (parts, gap) in found["logits"].items():
            assert parts == (len(ranks) if name.endswith("cut") else 1) and gap < 1e-5, name


def test_losses_of_cut_logits(ranks):
    for found in ranks:
        assert found["losses"]["none kept"] == 0 and len(found["losses"]) == 14
        for name, gap in found["losses"].items():
            assert gap < 1e-6, name


def test_norms_over_single_heads(ranks):
    assert ranks[0]["head norm"] < 1e-6


def test_parameters_that_are_not_trained(ranks):
    assert max(ranks[0]["frozen"]) < 1e-5


def test_gradient_of_a_whole_input_of_a_row_cut_product(ranks):
    assert all(found["row of whole input"] < 1e-6 for found in ranks)


def test_streams_of_dropout(ranks):
    for found in (rank["dropout"] for rank in ranks):
        for alike in ("same", "same again", "evaluation"):
            assert len(set(found[alike])) == 1
        assert found["same"] != found["same again"]
        for different in ("own", "rows", "attention"):
            assert len(set(found[different])) == len(ranks)
        assert found["restored"] and not found["another"]


def test_recomputation_drops_the_same(ranks):
    assert all(rank["dropout recomputed"] == {"sp False": True, "sp True": True} for rank in ranks)


def test_refusals(ranks):
    found, size = ranks[0]["refusals"], len(ranks)
    assert f"num_attention_heads=1 cannot be shared equally by {size} ranks" in found["heads"]
    assert "vocab_size=63" in found["vocabulary"] and "1, 3, 7, 9, 21, 63" in found["vocabulary"]
    assert "5 tokens" in found["rows"] and "sequence_parallel" in found["rows"]
    assert "seed_streams" in found["streams"]
