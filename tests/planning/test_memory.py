"""The peak of a whole step: planned within 10 % of the most that Paddle has allocated; and what becomes of layouts."""

from __future__ import annotations

import gc
from typing import Any, Dict

import numpy as np
import pytest

from paddlenlp.parallel.mesh import Mesh
from paddlenlp.planning.abstract import abstract_model
from paddlenlp.planning.layout import Layout
from paddlenlp.planning.memory import GIB, KINDS, RESERVED, fullest, needed_within, plan_memory
from paddlenlp.planning.rank import Place
from paddlenlp.transformers import AutoConfig

NEAR, LENGTH, ROWS, VOCAB = 0.1, 256, 2, 512
LLAMA: Dict[str, Any] = dict(
    vocab_size=VOCAB,
    hidden_size=256,
    intermediate_size=640,
    num_hidden_layers=6,
    num_attention_heads=8,
    num_key_value_heads=4,
    max_position_embeddings=LENGTH,
)
FULL = {"recompute": True, "recompute_granularity": "full"}
LOW = {"bf16": True, "fp16_opt_level": "O2", "amp_master_grad": True}


@pytest.mark.parametrize(
    "config, changes, micro_batches",
    [
        ({}, {}, 2),
        ({}, {}, 1),
        ({}, FULL, 2),
        ({"vocab_size": 8192}, {}, 2),
        ({"tie_word_embeddings": True}, {}, 2),
        ({}, {**FULL, **LOW}, 2),
    ],
    ids=["plain", "one micro batch", "recompute", "large vocabulary", "tied", "recompute in bf16"],
)
def test_peak_of_a_step(config, changes, micro_batches):
    import paddle
    from work_layouts import Run

    core = paddle.base.core
    gc.collect()
    held = core.host_memory_stat_current_value("Allocated", 0)
    run = Run({**changes, "per_device_train_batch_size": ROWS}, "Llama", {**LLAMA, **config})
    stream = np.random.RandomState(0)
    ids = [paddle.to_tensor(stream.randint(0, VOCAB, (ROWS, LENGTH)).astype(np.int64)) for _ in range(micro_batches)]
    read = [{"input_ids": one, "labels": one} for one in ids]
    run.step.run(1, read)
    gc.collect()
    core.host_memory_stat_reset_peak_value("Allocated", 0)
    run.model.train_batch(read)
    computing = core.host_memory_stat_peak_value("Allocated", 0) - held
    core.host_memory_stat_reset_peak_value("Allocated", 0)
    run.optimizer.step()
    updating = core.host_memory_stat_peak_value("Allocated", 0) - held
    layout = Layout.from_args(run.args, LENGTH).with_(accumulation=micro_batches)
    (rank,) = plan_memory(run.model.config, layout, "cpu")
    planned = {words: [m.total for m in rank.timeline if words in m.when] for words in ("pass", "step")}
    assert max(planned["pass"]) == pytest.approx(computing, rel=NEAR)
    assert max(planned["step"]) == pytest.approx(updating, rel=NEAR)


@pytest.fixture(scope="module")
def model():
    return abstract_model(AutoConfig.from_pretrained("meta-llama/Llama-2-7b"))


def peak(model: Any, **changes: Any) -> float:
    return fullest(plan_memory(model, Layout(seq_length=2048, accumulation=8).with_(**changes))).peak.total


def test_what_saves_memory_saves_it(model):
    """Each of the means against the same without it."""
    sharded = [peak(model, mesh=Mesh(sharding=8), stage=stage) for stage in (1, 2, 3)]
    assert peak(model, mesh=Mesh(dp=8)) > sharded[0] > sharded[1] > sharded[2]
    kept = [peak(model, recompute=granularity) for granularity in (None, "core_attn", "full_attn", "full")]
    assert kept[0] >= kept[1] > kept[2] > kept[3]
    assert peak(model, mesh=Mesh(tp=2)) > peak(model, mesh=Mesh(tp=2), sequence_parallel=True)
    assert peak(model, micro_batch=2) > peak(model)
    assert peak(model, mesh=Mesh(sharding=8), stage=1) > peak(model, mesh=Mesh(sharding=8), stage=1, offload=True)
    assert peak(model, kernels=frozenset()) > peak(model)


def test_first_pipeline_rank_keeps_most_micro_batches(model):
    ranks = plan_memory(model, Layout(Mesh(pp=4), seq_length=2048, accumulation=8))
    assert [rank.in_flight for rank in ranks] == [4, 3, 2, 1]
    assert sum(len(rank.stages) for rank in ranks) == len(model.stages)
    sizes = [rank.peak.bytes["activations"] for rank in ranks]
    assert sizes == sorted(sizes, reverse=True)
    assert [rank.peak.bytes["logits and loss"] > 0 for rank in ranks] == [False, False, False, True]


def test_allowances(model):
    (rank,) = plan_memory(model, Layout(seq_length=2048))
    assert set(rank.peak.bytes) == set(KINDS)
    assert rank.needed == rank.peak.total + rank.fragmentation + RESERVED
    assert 0 < rank.fragmentation < 0.05 * rank.peak.total
    assert 100 * GIB < rank.needed < 200 * GIB  # 16 bytes for each of 6.7 B parameters, and activations


@pytest.mark.parametrize(
    "name, billions, layout",
    [
        (
            "meta-llama/Meta-Llama-3.1-405B",
            405.85,
            Layout(Mesh(tp=8, pp=18, sharding=64), stage=1, accumulation=18, sequence_parallel=True, seq_length=8192),
        ),
        (
            "deepseek-ai/DeepSeek-V3",
            671.03,
            Layout(Mesh(pp=16, sharding=128), stage=1, accumulation=32, seq_length=4096, recompute="full"),
        ),
    ],
)
def test_the_largest(name, billions, layout):
    config = AutoConfig.from_pretrained(name)
    whole = abstract_model(config)
    assert whole.parameters / 1e9 == pytest.approx(billions, abs=0.01)
    assert whole is abstract_model(AutoConfig.from_pretrained(name))
    ranks = plan_memory(whole, layout)
    assert len(ranks) == layout.mesh.pp
    # Norms are on every tensor-parallel rank, and buckets have gaps.
    parameters = sum(rank.state.parameters for rank in ranks) * layout.mesh.tp
    assert parameters == pytest.approx(2 * whole.parameters, rel=0.002)


def test_ranks_behind_one_that_does_not_fit_are_not_planned(model, monkeypatch):
    layout = Layout(Mesh(pp=4), seq_length=2048, accumulation=8)
    most = fullest(plan_memory(model, layout)).needed
    assert needed_within(most, model, layout) == most
    places = []
    monkeypatch.setattr("paddlenlp.planning.memory.Place", lambda pp: places.append(pp) or Place(pp))
    assert needed_within(most - 1, model, layout) == float("inf")
    assert places == [0]
