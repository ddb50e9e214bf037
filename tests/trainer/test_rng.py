"""Random generators: seeds by rank, states as JSON, bitwise continuation in another process."""

import inspect
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest

from paddlenlp.trainer.rng import rank_seeds, rng_state, set_rng_state, set_seed
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.log import logger

REPOSITORY = Path(__file__).parents[2]


def draw():
    return [
        paddle.rand([3]).tolist(),
        paddle.randn([3]).tolist(),
        paddle.nn.functional.dropout(paddle.ones([16]), 0.5).tolist(),
        paddle.randint(0, 1000, [3]).tolist(),
        np.random.randn(3).tolist(),
        np.random.permutation(9).tolist(),
        [random.random(), random.gauss(0, 1)],
    ]


def advance():
    """An odd number of draws of each kind, so that cached second halves are part of the state."""
    paddle.rand([5])
    np.random.randn(1)
    random.gauss(0, 1)


def test_continues_bitwise_in_this_process():
    set_seed(11)
    advance()
    state = json.loads(json.dumps(rng_state()))
    expected = draw()
    set_seed(12)
    assert draw() != expected
    set_rng_state(state)
    assert draw() == expected


def test_continues_bitwise_in_another_process(tmp_path):
    set_seed(13)
    advance()
    (tmp_path / "rng_state.json").write_text(json.dumps(rng_state()))
    program = (
        "import json, random, sys\nimport numpy as np, paddle\nfrom paddlenlp.trainer.rng import set_rng_state\n"
        + inspect.getsource(draw)
        + "\nset_rng_state(json.load(open(sys.argv[1])))\nprint(json.dumps(draw()))\n"
    )
    output = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, str(tmp_path / "rng_state.json")],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert json.loads(output.splitlines()[-1]) == draw()


@pytest.mark.parametrize("kind", ["python", "numpy", "paddle"])
def test_every_generator_is_in_the_state(kind):
    set_seed(14)
    before = rng_state()[kind]
    advance()
    assert rng_state()[kind] != before


def test_same_seed_same_numbers_and_another_seed_others():
    set_seed(15)
    first = draw()
    set_seed(15)
    assert draw() == first
    set_seed(16)
    assert all(one != other for one, other in zip(draw(), first))


def test_log_line_of_one_process(monkeypatch):
    lines = []
    monkeypatch.setattr(logger, "info", lines.append)
    set_seed(42)
    assert lines == ["The global seed is set to 42, local seed is set to 43 and random seed is set to 42."]


def test_seeds_by_rank():
    sizes = {"dp": 2, "pp": 2, "sharding": 2, "sep": 1, "mp": 2}
    ranks = {"dp": 1, "pp": 1, "sharding": 1, "sep": 0, "mp": 1}
    # global: 7 + pp * 2 + dp * (2 * 2) + sharding * (2 * 2 * 2); local: + 16 ranks + mp rank; host: + 100 * pp
    assert rank_seeds(7, ranks, sizes) == (7 + 2 + 4 + 8, 7 + 2 + 4 + 8 + 16 + 1, 107)
    assert rank_seeds(7, {}, {}) == (7, 8, 7)
    assert rank_seeds(7, {"sep": 1}, {"sep": 2, "mp": 4}).world == 7 + 4


def test_tensor_parallel_ranks_share_the_global_seed_only():
    sizes = {"mp": 2}
    first, second = (rank_seeds(1, {"mp": rank}, sizes) for rank in (0, 1))
    assert first.world == second.world
    assert first.local != second.local


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.pop("numpy"),
        lambda state: state["python"].update(words="1 2 3"),
        lambda state: state["paddle"]["cpu"][0].update(engine="1 2 3"),
        lambda state: state["paddle"]["cpu"][0].update(engine="x"),
        lambda state: state["numpy"].update(keys="1"),
    ],
)
def test_state_that_is_none_is_refused(change):
    state = rng_state()
    change(state)
    with pytest.raises(UsageError, match="not a state that rng_state returned"):
        set_rng_state(state)


def test_state_of_another_device_is_reported(monkeypatch):
    lines = []
    monkeypatch.setattr(logger, "warning", lines.append)
    state = rng_state()
    state["paddle"] = {"gpu": state["paddle"]["cpu"]}
    set_rng_state(state)
    assert len(lines) == 1
    assert "0 cpu generator(s), this machine has 1" in lines[0]


def test_seeds_follow_from_the_place_in_the_mesh(monkeypatch):
    """Tensor-parallel ranks share the first seed and differ in the second; all others differ in both."""
    from paddlenlp.trainer import PreTrainingArguments
    from paddlenlp.trainer.rng import seed_rank

    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "16")
    args = PreTrainingArguments(
        "out", seed=5, tensor_parallel_degree=2, pipeline_parallel_degree=2, sep_parallel_degree=2, sharding="stage1"
    )
    seeds = {}
    for rank in range(16):
        monkeypatch.setenv("PADDLE_TRAINER_ID", str(rank))
        seeds[rank] = seed_rank(args)
        place = args.mesh.place(rank)
        first = rank - place["tp"]
        assert seeds[rank].world == seeds[first].world
        assert seeds[rank].host == 5 + 100 * place["pp"]
    assert len({found.world for found in seeds.values()}) == 8
    assert len({found.local for found in seeds.values()}) == 16
    assert not {found.local for found in seeds.values()} & {found.world for found in seeds.values()}


def test_the_own_stream_of_dropout_is_part_of_the_state(monkeypatch):
    """It goes on bitwise; a checkpoint without it, or with another, leaves it as it is."""
    from paddle.distributed.fleet.meta_parallel import get_rng_state_tracker

    from paddlenlp.parallel.dropout import OWN, seed_streams

    def draw():
        with get_rng_state_tracker().rng_state(OWN):
            return paddle.rand([4]).tolist()

    seed_streams(3, 4)
    draw()
    state = json.loads(json.dumps(rng_state()))
    wanted = draw()
    seed_streams(3, 99)
    assert draw() != wanted
    set_rng_state(state)
    assert draw() == wanted
    set_rng_state({**state, "dropout": {}})
    assert draw() != wanted
