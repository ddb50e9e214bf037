"""Checkpoints and results that cannot be written: the run stops or goes on, as save_failure_policy says."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from paddlenlp.checkpoint import space
from paddlenlp.checkpoint.folder import checkpoint_folders, latest_checkpoint, settle
from paddlenlp.checkpoint.space import Plan
from paddlenlp.parallel.failure import RankFailed
from paddlenlp.trainer import keeper as keepers
from paddlenlp.trainer.callbacks import TrainerCallback
from paddlenlp.trainer.save_failures import SaveFailures
from paddlenlp.utils.errors import UsageError


def names(folder):
    return [path.name for path in checkpoint_folders(folder)]


class Full(TrainerCallback):
    """The disk is full at some steps; notes which checkpoints were reported."""

    def __init__(self, monkeypatch, *steps):
        self.steps, self.step, self.saved = steps, 0, []
        describe = keepers.CheckpointKeeper._describe

        def write(keeper, folder):
            if self.step in self.steps:
                raise OSError(errno.ENOSPC, "No space left on device", str(folder / "config.json"))
            describe(keeper, folder)

        monkeypatch.setattr(keepers.CheckpointKeeper, "_describe", write)

    def on_step_end(self, args, state, control, **kwargs):
        self.step = state.global_step

    def on_save(self, args, state, control, checkpoint, **kwargs):
        self.saved.append(Path(checkpoint).name)


def test_a_run_that_is_to_stop_stops_and_what_was_there_is_as_it_was(tiny, monkeypatch):
    trainer = tiny.trainer(callbacks=[Full(monkeypatch, 4)], max_steps=6)
    with pytest.raises(UsageError, match="checkpoint-4: .*cannot write.*No space left.*needs .* bytes are free"):
        trainer.train()
    assert trainer.state.global_step == 4 and names(tiny.folder) == ["checkpoint-2"]
    assert latest_checkpoint(tiny.folder) == tiny.folder / "checkpoint-2"


def test_a_run_that_is_to_continue_tries_again_at_the_next_save(tiny, monkeypatch, log_lines):
    full = Full(monkeypatch, 2, 4)
    trainer = tiny.trainer(callbacks=[full], max_steps=6, save_failure_policy="continue")
    assert trainer.train().global_step == 6
    assert names(tiny.folder) == ["checkpoint-6"] and full.saved == ["checkpoint-6"]
    said = [line for line in log_lines() if "save_failure_policy is continue" in line]
    assert len(said) == 2 and all("there is none yet" in line and "cannot write" in line for line in said)


def test_the_last_checkpoint_may_fail_too(tiny, monkeypatch, log_lines):
    trainer = tiny.trainer(callbacks=[Full(monkeypatch, 4)], save_failure_policy="continue")
    assert trainer.train().global_step == 4
    assert trainer.keeper.last == tiny.folder / "checkpoint-2"
    assert any(f"the newest is {tiny.folder / 'checkpoint-2'}" in line for line in log_lines())


def test_losses_and_weights_do_not_depend_on_it(tiny, monkeypatch, run_hash_of, tmp_path):
    whole = tiny.trainer(output_dir=str(tmp_path / "whole"))
    whole.train()
    trainer = tiny.trainer(callbacks=[Full(monkeypatch, 2, 4)], save_failure_policy="continue")
    trainer.train()
    assert run_hash_of(trainer) == run_hash_of(whole)


def test_a_checkpoint_that_is_not_there_is_not_the_best(tiny, monkeypatch):
    """Each step is better than the one before; the second one is not saved."""
    changes = dict(do_eval=True, eval_steps=2, save_failure_policy="continue", metric_for_best_model="loss")
    trainer = tiny.trainer(callbacks=[Full(monkeypatch, 4)], load_best_model_at_end=True, **changes)
    losses = iter((3.0, 2.0))
    monkeypatch.setattr(type(trainer), "evaluate", lambda trainer: {"eval_loss": next(losses)})
    trainer.train()
    assert trainer.state.best_metric == 3.0
    assert Path(trainer.state.best_model_checkpoint).name == "checkpoint-2"


def test_results_that_cannot_be_written(tiny, log_lines):
    for name in ("trainer_state.json", "train_results.json"):
        (tiny.folder / name).mkdir(parents=True)
    stopping, going_on = tiny.trainer(), tiny.trainer(save_failure_policy="continue")
    for save in (stopping.save_state, lambda: stopping.save_metrics("train", {"loss": 1.0})):
        with pytest.raises(UsageError, match=r"cannot write this file: .* bytes are free"):
            save()
    going_on.save_state()
    going_on.save_metrics("train", {"loss": 1.0})
    said = [line for line in log_lines() if "goes on without this file" in line]
    assert len(said) == 2 and "trainer_state.json" in said[0] and "train_results.json" in said[1]


def test_the_model_at_the_end_must_be_written_whatever_the_policy(tiny, monkeypatch):
    trainer = tiny.trainer(save_failure_policy="continue", extra=[tiny.folder / "x"])
    tiny.folder.mkdir(exist_ok=True)
    (tiny.folder / "x").write_text("")

    def fail(source, target):
        raise OSError(errno.EDQUOT, "Disk quota exceeded", str(target))

    monkeypatch.setattr("shutil.copyfile", fail)
    with pytest.raises(UsageError, match="Disk quota exceeded.*quota is used up"):
        trainer.save_model(tiny.folder / "final")


def test_the_end_of_a_rank_is_no_failure_to_save():
    with pytest.raises(RankFailed):
        SaveFailures("continue").meet(RankFailed(1, "has ended"), "")


@pytest.mark.parametrize(
    "changes, plan",
    [
        ({}, Plan(2, None)),
        ({"max_steps": 5, "save_total_limit": 2}, Plan(3, 3)),
        ({"save_total_limit": 1}, Plan(2, 2)),
        ({"save_total_limit": 1, "do_eval": True, "eval_steps": 2}, Plan(2, 3)),
        ({"save_total_limit": 2, "do_eval": True, "eval_steps": 2}, Plan(2, 3)),
        ({"save_total_limit": 2, "save_strategy": "epoch"}, Plan(None, 3)),
    ],
)
def test_how_many_checkpoints_a_run_will_have(tiny, changes, plan):
    keeper = tiny.trainer(**changes).keeper
    keeper.begin(None)
    assert keeper._planned() == plan._replace(to_go=[])


def test_room_is_looked_for_before_a_run_by_what_it_will_have(tiny, monkeypatch):
    """Two checkpoints of little more than 4 MiB fit."""
    monkeypatch.setattr(space, "free_bytes", lambda path: 9_000_000)
    with pytest.raises(UsageError, match=r"out: the run needs [\d,]{10} bytes.* up to 3 more .* save_total_limit"):
        tiny.trainer(max_steps=8, save_total_limit=2).train()
    assert names(tiny.folder) == []
    tiny.trainer(save_total_limit=1).train()
    assert names(tiny.folder) == ["checkpoint-4"]


def test_checkpoints_that_lie_there_count_when_a_run_goes_on(tiny, monkeypatch):
    tiny.trainer(max_steps=4).train()
    monkeypatch.setattr(space, "free_bytes", lambda path: 5_000_000)
    tiny.trainer(max_steps=8, save_total_limit=2).train()
    assert names(tiny.folder) == ["checkpoint-6", "checkpoint-8"]


def test_where_room_is_short_the_oldest_goes_before_the_save(tiny, monkeypatch):
    """There is room for one more checkpoint while fewer than two lie there."""
    monkeypatch.setattr(keepers, "check_run_fits", lambda *args: None)
    monkeypatch.setattr(space, "free_bytes", lambda path: 10**7 if len(checkpoint_folders(path)) < 2 else 0)
    tiny.trainer(max_steps=8, save_total_limit=2).train()
    assert names(tiny.folder) == ["checkpoint-6", "checkpoint-8"]


def test_what_a_run_was_writing_when_it_was_killed_is_gone_after_the_next_start(tiny):
    """The weights at its end, by a process of another host; and a file that is no leaving."""
    tiny.folder.mkdir()
    (tiny.folder / ".checkpoint-2.partial-elsewhere-77").mkdir()
    for name in (".model.safetensors.by-elsewhere-77.partial", ".notes.partial"):
        (tiny.folder / name).write_text("")
    tiny.trainer().train()
    assert [path.name for path in tiny.folder.glob(".*partial*")] == [".notes.partial"]


def test_a_run_cleans_up_before_it_looks_for_room(tiny, monkeypatch):
    events = []
    monkeypatch.setattr(keepers, "settle", lambda folder: events.append("settle") or settle(folder))
    monkeypatch.setattr(keepers, "check_run_fits", lambda *args: events.append("room"))
    tiny.trainer().train()
    assert events == ["settle", "room"]
