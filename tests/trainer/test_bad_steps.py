"""Bad steps: what is left of them, what is recorded, and what the policies make of them."""

from __future__ import annotations

import json
import shlex
from types import SimpleNamespace

import pytest

from paddlenlp.checkpoint.manifest import verify
from paddlenlp.trainer import TrainerCallback
from paddlenlp.trainer.bad_steps import RECORDS, WINDOW, append_record, read_records, replay_command
from paddlenlp.utils.errors import UsageError
from tests.trainer.bad_numbers import BadLoss, BadWeight


def records(tiny):
    return [json.loads(line) for line in (tiny.folder / RECORDS).read_text().splitlines()]


def reference(tiny, tmp_path, run_hash_of, bad, **changes):
    """The run that passes steps over from the start."""
    intervals = [[step, step] for step in bad]
    trainer = tiny.trainer(output_dir=str(tmp_path / "reference"), skip_data_intervals=intervals, **changes)
    trainer.train()
    return run_hash_of(trainer)


def logged(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [(r["global_step"], r["loss"]) for r in map(json.loads, lines) if "interval_runtime" in r]


def test_skip_is_what_skip_data_intervals_does(tiny, tmp_path, run_hash_of):
    trainer = tiny.trainer(max_steps=6, bad_step_policy="skip")
    BadLoss(trainer.model, 4)
    trainer.train()
    assert run_hash_of(trainer) == reference(tiny, tmp_path, run_hash_of, [4], max_steps=6)
    assert logged(tiny.folder) == logged(tmp_path / "reference")
    assert trainer.state.passed_over == [] and trainer.state.last_bad_step == 4


def test_skip_data_intervals_and_bad_steps_together(tiny, tmp_path, run_hash_of):
    trainer = tiny.trainer(max_steps=6, bad_step_policy="skip", skip_data_intervals=[[2, 3]])
    BadLoss(trainer.model, 3)  # the third step that is trained is the fifth
    trainer.train()
    assert [record["step"] for record in records(tiny)] == [5]
    assert run_hash_of(trainer) == reference(tiny, tmp_path, run_hash_of, [2, 3, 5], max_steps=6)


def test_rollback_repeats_the_steps_since_the_checkpoint_and_passes_the_bad_one_over(tiny, tmp_path, run_hash_of):
    seen = []

    class Watch(TrainerCallback):
        def on_rollback(self, args, state, control, **kwargs):
            seen.append((state.global_step, kwargs["checkpoint"].name))

        def on_step_end(self, args, state, control, **kwargs):
            seen.append(state.global_step)

    trainer = tiny.trainer(max_steps=6, save_steps=2, bad_step_policy="rollback", callbacks=[Watch])
    BadLoss(trainer.model, 4)
    trainer.train()
    assert seen == [1, 2, 3, (2, "checkpoint-2"), 3, 4, 5, 6]
    assert trainer.state.passed_over == [[6, 8]]
    assert run_hash_of(trainer) == reference(tiny, tmp_path, run_hash_of, [4], max_steps=6)
    assert logged(tiny.folder) == logged(tmp_path / "reference")


def test_a_restart_keeps_what_is_to_be_passed_over(tiny, tmp_path, run_hash_of, log_lines):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop |= bool(state.passed_over) and state.global_step == 3

    first = tiny.trainer(max_steps=6, save_steps=2, bad_step_policy="rollback", callbacks=[Stop])
    BadLoss(first.model, 4)
    first.train()
    saved = json.loads((tiny.folder / "checkpoint-3/trainer_state.json").read_text())
    assert saved["passed_over"] == [[6, 8]] and saved["bad_steps_in_a_row"] == 1
    second = tiny.trainer(max_steps=6, save_steps=2, bad_step_policy="rollback", per_device_train_batch_size=2)
    second.train()
    assert any(line.startswith("Step 4: data passed over") and "bad step before" in line for line in log_lines())
    assert run_hash_of(second) == reference(tiny, tmp_path, run_hash_of, [4], max_steps=6)


def test_rollback_goes_past_a_checkpoint_that_is_damaged(tiny, tmp_path, run_hash_of, log_lines):
    went_to = []

    class Damage(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 3 and not state.passed_over:
                path = tiny.folder / "checkpoint-3/scheduler.json"
                path.write_text(path.read_text() + " ")

        def on_rollback(self, args, state, control, **kwargs):
            went_to.append(kwargs["checkpoint"].name)

    trainer = tiny.trainer(max_steps=5, save_steps=1, bad_step_policy="rollback", callbacks=[Damage])
    BadLoss(trainer.model, 4)
    trainer.train()
    assert went_to == ["checkpoint-2"] and trainer.state.passed_over == [[6, 8]]
    assert any("Not going back to" in line and "scheduler.json" in line for line in log_lines())
    assert run_hash_of(trainer) == reference(tiny, tmp_path, run_hash_of, [4], max_steps=5, save_steps=1)
    assert verify(tiny.folder / "checkpoint-3") == []  # written once more


def test_rollback_heals_weights_that_are_spoilt_and_skip_does_not(tiny, tmp_path, run_hash_of):
    trainer = tiny.trainer(max_steps=5, bad_step_policy="rollback")
    BadWeight(trainer.model, 3)
    trainer.train()
    assert run_hash_of(trainer) == reference(tiny, tmp_path, run_hash_of, [3], max_steps=5)
    other = tiny.trainer(output_dir=str(tmp_path / "skip"), max_steps=9, bad_step_policy="skip", bad_step_limit=3)
    BadWeight(other.model, 3)
    with pytest.raises(UsageError, match=r"Step 5: .*first bad weight.*bad step 3 in a row.*weights themselves"):
        other.train()


def test_before_the_first_checkpoint_rollback_passes_the_step_over(tiny, tmp_path, run_hash_of, log_lines):
    trainer = tiny.trainer(max_steps=4, save_steps=4, bad_step_policy="rollback")
    BadLoss(trainer.model, 2)
    trainer.train()
    assert records(tiny)[0]["action"] == "skip" and records(tiny)[0]["checkpoint"] is None
    assert any("no checkpoint to go back to yet" in line for line in log_lines())
    assert run_hash_of(trainer) == reference(tiny, tmp_path, run_hash_of, [2], max_steps=4)


def test_rollback_loads_the_optimizer_though_the_run_began_without(tiny, tmp_path, run_hash_of):
    """What `ignore_load_lr_and_optim` says is about the checkpoint that a run begins from, not about its own."""
    tiny.trainer(max_steps=2).train()
    changes = {"ignore_load_lr_and_optim": True, "max_steps": 7, "save_steps": 2}
    changes["resume_from_checkpoint"] = str(tiny.folder / "checkpoint-2")
    here = {"output_dir": str(tmp_path / "here"), **changes}
    trainer = tiny.trainer(bad_step_policy="rollback", **here)
    BadLoss(trainer.model, 4)  # at step 6, two behind the checkpoint
    trainer.train()
    assert trainer.state.passed_over == [[10, 12]]
    assert run_hash_of(trainer) == reference(tiny, tmp_path, run_hash_of, [6], **changes)
    first = tiny.trainer(bad_step_policy="rollback", **{**here, "output_dir": str(tmp_path / "first")})
    BadLoss(first.model, 1)
    first.train()
    (record,) = [json.loads(line) for line in (tmp_path / "first" / RECORDS).read_text().splitlines()]
    assert record["action"] == "skip"  # of the checkpoint that it began from it has taken the weights alone


def test_a_limit_ends_the_run_and_good_steps_begin_the_count_anew(tiny):
    trainer = tiny.trainer(max_steps=9, bad_step_policy="skip", bad_step_limit=2)
    for call in (2, 4, 6, 7):
        BadLoss(trainer.model, call)
    with pytest.raises(UsageError, match=r"Step 7: .*It is bad step 2 in a row, as many as bad_step_limit allows"):
        trainer.train()
    assert [(r["step"], r["action"]) for r in records(tiny)] == [(2, "skip"), (4, "skip"), (6, "skip"), (7, "stop")]


def test_rollbacks_for_one_step_after_another_come_to_an_end(tiny):
    trainer = tiny.trainer(max_steps=30, save_steps=3, bad_step_policy="rollback", bad_step_limit=3)
    real = trainer.model.train_batch
    trainer.model.train_batch = lambda *given: real(*given) * (float("nan") if trainer.state.global_step >= 4 else 1.0)
    with pytest.raises(UsageError, match="Step 7: .*bad step 3 in a row"):
        trainer.train()
    assert trainer.state.passed_over == [[8, 10], [10, 12]]


def test_a_spike_is_measured_by_the_last_good_losses(tiny, tmp_path, run_hash_of):
    last = WINDOW + 3
    changes = {"max_steps": last + 1, "save_strategy": "no"}
    trainer = tiny.trainer(bad_step_policy="skip", loss_spike_bound=1.5, **changes)
    for call, factor in ((2, 10.0), (last, 1.6)):  # too early to be told from the beginning of a run
        BadLoss(trainer.model, call, factor)
    trainer.train()
    (record,) = records(tiny)
    assert record["step"] == last and "above loss_spike_bound 1.5 times the mean of 20 good steps" in record["reason"]
    assert record["first_bad_tensor"] is None and len(trainer.state.recent_losses) == WINDOW
    found, expected = run_hash_of(trainer), reference(tiny, tmp_path, run_hash_of, [last], **changes)
    assert found["weights"] == expected["weights"] and found["optimizer"] == expected["optimizer"]
    unbounded = tiny.trainer(output_dir=str(tmp_path / "unbounded"), **changes)
    BadLoss(unbounded.model, last, 1.6)
    unbounded.train()
    assert not (tmp_path / "unbounded" / RECORDS).exists()


def test_a_restart_measures_spikes_by_the_losses_before_it(tiny):
    tiny.trainer(max_steps=WINDOW, save_steps=WINDOW).train()
    trainer = tiny.trainer(max_steps=WINDOW + 1, loss_spike_bound=1.5)
    BadLoss(trainer.model, 1, 2.0)
    with pytest.raises(UsageError, match=f"Step {WINDOW + 1}: loss .* above loss_spike_bound"):
        trainer.train()


def test_the_record_of_a_stop(tiny):
    trainer = tiny.trainer(gradient_accumulation_steps=2)
    BadLoss(trainer.model, 3)
    with pytest.raises(UsageError, match=r"Step 3: Loss contains inf or nan.*--step 3"):
        trainer.train()
    (record,) = records(tiny)
    assert record["sample_ids"] == [[8, 9], [10, 11]] and record["consumed_samples"] == 8
    assert record["loss"] == "nan" and record["grad_norm"] > 0 and record["action"] == "stop"
    assert record["learning_rate"] == trainer.optimizer.lr and record["checkpoint"] == str(tiny.folder / "checkpoint-2")
    assert shlex.split(record["command"])[1:] == ["llm/tools/replay_step.py", str(tiny.folder / RECORDS), "--step", "3"]


def test_samples_of_a_second_pass_over_the_data(tiny, tokens):
    trainer = tiny.trainer(data=tokens(5), max_steps=6, bad_step_policy="skip")
    BadLoss(trainer.model, 4)
    trainer.train()
    assert records(tiny)[0]["sample_ids"] == [[0, 1]] and records(tiny)[0]["consumed_samples"] == 5


def test_fp16_that_overflows_at_scale_one_is_a_bad_step(tiny):
    class Overflow(TrainerCallback):
        def on_optimizer_begin(self, args, state, control, **kwargs):
            if state.global_step in (1, 2, 3):
                grad = next(iter(kwargs["model"].parameters())).grad
                grad.set_value(grad * float("inf"))

    low = {"fp16": True, "scale_loss": 4.0, "save_strategy": "no", "max_steps": 5}
    trainer = tiny.trainer(callbacks=[Overflow], bad_step_policy="skip", **low)
    trainer.train()
    assert [(record["step"], record["first_bad_tensor"]["kind"]) for record in records(tiny)] == [(4, "gradient")]
    assert trainer.lr_scheduler.last_epoch == 3


def test_a_spike_leaves_the_loss_scale_alone(tiny):
    trainer = tiny.trainer(
        fp16=True, scale_loss=4.0, max_steps=WINDOW + 2, loss_spike_bound=2.0, bad_step_policy="skip"
    )
    BadLoss(trainer.model, WINDOW + 1, 3.0)
    trainer.train()
    assert len(records(tiny)) == 1 and trainer.optimizer.scaler.scale == 4.0
    assert trainer.optimizer.scaler.incr_count == WINDOW + 1


def test_a_record_that_cannot_be_written_ends_nothing(tiny, log_lines):
    (tiny.folder / RECORDS).mkdir(parents=True)
    trainer = tiny.trainer(bad_step_policy="skip", save_strategy="no")
    BadLoss(trainer.model, 2)
    trainer.train()
    assert trainer.state.global_step == 4
    assert any("the record of a bad step can't be written" in line and '"step": 2' in line for line in log_lines())


def test_records_behind_a_torn_line(tmp_path):
    path = tmp_path / RECORDS
    record = {"step": 1, "sample_ids": [[0]], "samples_sha256": ""}
    append_record(path, record)
    with open(path, "a") as file:
        file.write('{"step": 2, "sam')
    append_record(path, {**record, "step": 3})
    assert [found["step"] for found in read_records(path)] == [1, 3]
    for content in ("", "[1]\n{}\n", "[" * 100000):
        path.write_text(content)
        with pytest.raises(UsageError, match="holds no record of a bad step"):
            read_records(path)
    with pytest.raises(UsageError, match="can't be read: No such file"):
        read_records(tmp_path / "nowhere")


def test_the_command_is_the_one_of_the_run(tmp_path, monkeypatch):
    args = SimpleNamespace(world_size=4, local_world_size=4)
    monkeypatch.setattr("sys.argv", ["../llm/run_pretrain.py", "config.json"])
    found = replay_command(tmp_path / "my run" / RECORDS, 7, args)
    assert shlex.split(found) == [
        *["python", "-m", "paddle.distributed.launch", "--nproc_per_node", "4", "../llm/tools/replay_step.py"],
        str(tmp_path / "my run" / RECORDS),
        *["--step", "7"],
    ]
