"""The parts of the dry run: sizes of checkpoints, the roles of a layout, tiny models."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from paddlenlp.checkpoint import space
from paddlenlp.parallel.mesh import Degrees, Mesh, least_processes
from paddlenlp.planning.abstract import abstract_model
from paddlenlp.trainer import PreTrainingArguments, rehearsal, snapshot
from paddlenlp.trainer.checkpoint_size import bytes_of_checkpoint
from paddlenlp.trainer.keeper import CheckpointKeeper
from paddlenlp.trainer.optimizer import build_optimizer
from paddlenlp.trainer.rehearsal_step import roles
from paddlenlp.trainer.shrink import shrunk
from paddlenlp.transformers import AutoConfig, AutoModelForCausalLM
from paddlenlp.transformers.known_models import known_config
from paddlenlp.utils.errors import UsageError

FAMILIES = {
    "llama": "facebook/llama-7b",
    "gemma": "google/gemma-2b",
    "deepseek-v3": "deepseek-ai/DeepSeek-V3",
    "gpt": "gpt3-13B-en",
}


def tiny(name):
    return AutoConfig.from_dict({**shrunk(known_config(name)), "vocab_size": 64})


def run_of(config, folder, **changes):
    args = PreTrainingArguments(output_dir=str(folder), max_steps=10, do_train=True, **changes)
    return SimpleNamespace(config=config, args=args, model_args=None, data_args=None)


WORDS = (
    {},
    {"bf16": True, "fp16_opt_level": "O2"},
    {"bf16": True, "fp16_opt_level": "O2", "unified_checkpoint_config": "skip_save_model_weight"},
    {"bf16": True, "fp16_opt_level": "O2", "unified_checkpoint_config": "remove_master_weight"},
    {"ignore_save_lr_and_optim": True},
)


@pytest.mark.parametrize("changes", WORDS, ids=lambda changes: " ".join(map(str, changes.values())) or "float32")
@pytest.mark.parametrize("family", FAMILIES)
def test_the_size_of_a_checkpoint_is_known_before_the_model_is_made(family, changes, tmp_path):
    from paddlenlp.nn import configure_run
    from paddlenlp.parallel.topology import topology

    config = tiny(FAMILIES[family])
    run = run_of(config, tmp_path, **changes)
    configure_run(run.args)
    model = AutoModelForCausalLM.from_config(config, dtype=run.args.dtype)
    optimizer = build_optimizer(model, run.args)
    saved = snapshot.shards_to_save(model, optimizer, run.args, topology().world.group).bytes
    assert bytes_of_checkpoint(abstract_model(config), run.args) == saved


def test_a_disk_that_is_too_small_is_refused_in_the_words_of_the_run(monkeypatch, tmp_path):
    config = tiny(FAMILIES["llama"])
    run = run_of(config, tmp_path, save_steps=2, save_total_limit=2)
    model = AutoModelForCausalLM.from_config(config, dtype="float32")
    keeper = CheckpointKeeper(model, None, run.args, [])
    keeper.begin(None)
    for free in (1 << 16, 5 << 20):  # no checkpoint fits; one does, and the next would not
        monkeypatch.setattr(space, "free_bytes", lambda _, free=free: free)
        with pytest.raises(UsageError) as real:
            keeper.check_space(build_optimizer(model, run.args))
        with pytest.raises(UsageError) as found:
            rehearsal.checkpoints(run)
        assert str(found.value) == str(real.value)


@pytest.mark.parametrize(
    ("mesh", "expected"),
    [
        (Mesh(), Mesh()),
        (Mesh(dp=128), Mesh(dp=2)),
        (Mesh(tp=8, sharding=4), Mesh(tp=2, sharding=2)),
        (Mesh(pp=16), Mesh(pp=3)),
        (Mesh(dp=4, pp=8, tp=8), Mesh(dp=2, pp=2, tp=2)),
        (Mesh(dp=4, pp=2, tp=8, sharding=8), Mesh(pp=2, tp=2, sharding=2)),
        (Mesh(sharding=16, ep=8, tp=4, pp=4), Mesh(sharding=2, ep=2, tp=2, pp=2)),
        (Mesh(dp=8, ep=8), Mesh(dp=2, ep=2)),
        (Mesh(cp=8, tp=2, pp=2), Mesh(cp=2, tp=2, pp=2)),
    ],
    ids=str,
)
def test_roles(mesh, expected):
    assert roles(mesh) == expected


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [
        ({}, 1),
        ({"tensor_parallel_degree": 2, "pipeline_parallel_degree": 4}, 8),
        ({"sharding_parallel_degree": 4, "sharded": True, "tensor_parallel_degree": 2}, 8),
        ({"sharding_parallel_degree": 4, "sharded": True, "expert_parallel_degree": 4}, 4),
        ({"sharded": True, "expert_parallel_degree": 4}, 4),
        ({"context_parallel_degree": 2}, 2),
    ],
)
def test_the_fewest_processes(degrees, expected):
    assert least_processes(Degrees(**degrees)) == expected


@pytest.mark.parametrize("name", FAMILIES.values())
def test_a_tiny_model_is_of_the_same_kind(name):
    values = known_config(name)
    made = shrunk(values, layers=4)
    assert set(made) == set(values) and made["model_type"] == values["model_type"]
    assert made["vocab_size"] == values["vocab_size"] and made["hidden_size"] == 32
    assert shrunk(made, layers=4) == made
    assert abstract_model(AutoConfig.from_dict(made)).parameters < 20e6


def test_a_dry_run_stands_for_as_many_processes_as_are_asked_for(monkeypatch):
    args = PreTrainingArguments(output_dir="x", dry_run=True, tensor_parallel_degree=2, dry_run_processes=16)
    assert (args.world_size, args.mesh.dp) == (16, 8)
    assert PreTrainingArguments(output_dir="x", dry_run=True, tensor_parallel_degree=2).world_size == 2
    assert PreTrainingArguments(output_dir="x", dry_run_processes=4).world_size == 1
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "4")
    assert args.world_size == 4
