"""N + N steps with a process's worth of forgetting in between are 2N steps, bit for bit."""

from __future__ import annotations

import json
import shutil

import pytest

from paddlenlp.utils.errors import UsageError


def uninterrupted(tiny, tmp_path, run_hash_of, **changes):
    trainer = tiny.trainer(output_dir=str(tmp_path / "whole"), **changes)
    trainer.train()
    return {**run_hash_of(trainer), "evaluations": evaluations(trainer)}


def evaluations(trainer):
    return [(r["global_step"], r["eval_loss"]) for r in trainer.state.log_history if "eval_loss" in r]


def resumed(tiny, run_hash_of, **changes):
    """Stop after the checkpoint of step 2 (whatever was done later is forgotten), then go on in new objects."""
    tiny.trainer(**changes).train()
    for folder in tiny.folder.glob("checkpoint-*"):
        if folder.name != "checkpoint-2":
            shutil.rmtree(folder)
    trainer = tiny.trainer(**changes)
    trainer.train()
    return {**run_hash_of(trainer), "evaluations": evaluations(trainer)}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"gradient_accumulation_steps": 3, "logging_steps": 4},
        {"bf16": True, "fp16_opt_level": "O2", "amp_master_grad": True},
        {"bf16": True, "fp16_opt_level": "O2", "unified_checkpoint_config": "skip_save_model_weight"},
        {"fp16": True, "scale_loss": 1024.0},
        {"do_eval": True, "eval_steps": 1, "lr_scheduler_type": "cosine", "warmup_steps": 2},
        {"dataloader_num_workers": 1},
    ],
    ids=["plain", "accumulation", "bf16", "masters-only", "fp16", "evaluation", "workers"],
)
def test_resume_is_bitwise(tiny, tmp_path, run_hash_of, changes):
    assert resumed(tiny, run_hash_of, **changes) == uninterrupted(tiny, tmp_path, run_hash_of, **changes)


def test_dropout_is_really_drawn(tiny, run_hash_of, tmp_path):
    with_dropout = uninterrupted(tiny, tmp_path, run_hash_of, save_strategy="no")
    tiny.dropout = 0.0
    assert uninterrupted(tiny, tmp_path, run_hash_of, save_strategy="no")["weights"] != with_dropout["weights"]


def test_position_in_the_data_does_not_depend_on_the_batch_size(tiny, tokens):
    first = tokens(64)
    tiny.trainer(data=first, max_steps=2, per_device_train_batch_size=3, gradient_accumulation_steps=2).train()
    assert first.read[:12] == list(range(12))
    second = tokens(64)
    trainer = tiny.trainer(data=second, max_steps=4, per_device_train_batch_size=5)
    trainer.train()
    assert second.read[:10] == list(range(12, 22))
    assert trainer.state.consumed_samples == 22 and trainer.state.global_step == 4


def test_ignore_data_skip_starts_the_data_again(tiny, tokens):
    tiny.trainer(max_steps=2).train()
    data = tokens(64)
    trainer = tiny.trainer(data=data, max_steps=3, ignore_data_skip=True)
    trainer.train()
    assert data.read[:2] == [0, 1] and trainer.state.consumed_samples == 2


def test_a_second_pass_over_the_data_goes_on_where_the_first_ended(tiny, tokens):
    data = tokens(5)
    trainer = tiny.trainer(data=data, max_steps=4, save_steps=1)
    trainer.train()
    assert data.read[:8] == [0, 1, 2, 3, 4, 0, 1, 2] and trainer.state.consumed_samples == 7
    again = tokens(5)
    tiny.trainer(data=again, max_steps=5).train()
    assert again.read[:3] == [2, 3, 4]


def test_drop_last_leaves_out_the_incomplete_step(tiny, tokens):
    data = tokens(5)
    trainer = tiny.trainer(data=data, max_steps=3, dataloader_drop_last=True, save_strategy="no")
    trainer.train()
    assert data.read[:6] == [0, 1, 2, 3, 0, 1] and trainer.state.consumed_samples == 7
    for drop, consumed in ((True, 7 + 4), (False, 7)):
        changes = dict(dataloader_drop_last=drop, gradient_accumulation_steps=2, save_strategy="no")
        trainer = tiny.trainer(data=tokens(7), max_steps=2, **changes)
        trainer.train()
        assert trainer.state.consumed_samples == consumed


def test_a_complete_run_trains_no_further(tiny, log_lines):
    done = tiny.trainer()
    result = done.train()
    done.save_metrics("train", result.metrics)
    again = tiny.trainer()
    assert again.train() == result
    assert any("Training is complete" in line and "max_steps 4" in line for line in log_lines())
    assert all((a.numpy() == b.numpy()).all() for a, b in zip(again.model.parameters(), done.model.parameters()))


def test_overwrite_output_dir_starts_anew_and_removes_the_old_run_only_when_saved(tiny):
    tiny.trainer(max_steps=6).train()
    assert (tiny.folder / "checkpoint-6").exists()

    class Look:
        seen = None

    from paddlenlp.trainer import TrainerCallback

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 1:
                Look.seen = sorted(p.name for p in tiny.folder.glob("checkpoint-*"))

    trainer = tiny.trainer(max_steps=2, overwrite_output_dir=True, callbacks=[Watch])
    trainer.train()
    assert trainer.state.trained_steps == 2
    assert Look.seen == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]
    assert [p.name for p in tiny.folder.glob("checkpoint-*")] == ["checkpoint-2"]


def test_explicit_checkpoint_true_and_false(tiny, tmp_path):
    with pytest.raises(UsageError, match="No valid checkpoint"):
        tiny.trainer().train(resume_from_checkpoint=True)
    tiny.trainer().train()
    other = tiny.trainer(output_dir=str(tmp_path / "other"))
    other.train(resume_from_checkpoint=str(tiny.folder / "checkpoint-2"))
    assert other.state.trained_steps == 4 and (tmp_path / "other/checkpoint-4").exists()
    assert not (tmp_path / "other/checkpoint-2").exists()
    named = tiny.trainer(output_dir=str(tmp_path / "named"), resume_from_checkpoint=str(tiny.folder / "checkpoint-2"))
    named.train()
    assert [r["global_step"] for r in named.state.log_history if "loss" in r] == [1, 2, 3, 4]
    fresh = tiny.trainer()
    fresh.train(resume_from_checkpoint=False)
    assert fresh.state.trained_steps == 4


def test_a_damaged_checkpoint_is_passed_over_or_refused(tiny, log_lines):
    tiny.trainer().train()
    weights = tiny.folder / "checkpoint-4/model-00001-of-00001.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    trainer = tiny.trainer()
    with pytest.raises(UsageError, match="checkpoint-4 is not a whole checkpoint"):
        trainer.train(resume_from_checkpoint=str(tiny.folder / "checkpoint-4"))
    trainer.train()
    assert any("Continuing training from global step 2" in line for line in log_lines())


def test_a_checkpoint_of_another_model_is_one_clear_error(tiny):
    tiny.trainer().train()
    args = tiny.args(max_steps=6)
    with pytest.raises(UsageError, match=r"(?s)Can't resume from .*checkpoint-4.*gate_proj.*overwrite_output_dir"):
        tiny.trainer(model=tiny.model(args, intermediate_size=32), max_steps=6).train()


def test_without_optimizer_state_only_the_weights_go_on(tiny, log_lines):
    tiny.trainer(ignore_save_lr_and_optim=True, max_steps=2).train()
    assert not list((tiny.folder / "checkpoint-2").glob("optimizer*"))
    with pytest.raises(UsageError, match="ignore_load_lr_and_optim"):
        tiny.trainer(max_steps=3).train()
    trainer = tiny.trainer(max_steps=3, ignore_load_lr_and_optim=True)
    trainer.train()
    assert trainer.state.global_step == 3 and trainer.lr_scheduler.last_epoch == 2


@pytest.mark.parametrize("words", ["remove_master_weight", "skip_save_model_weight", "enable_all_options", ""])
def test_master_weight_words(tiny, words):
    low = {"bf16": True, "fp16_opt_level": "O2", "unified_checkpoint_config": words}
    tiny.trainer(max_steps=2, **low).train()
    folder = tiny.folder / "checkpoint-2"
    assert bool(list(folder.glob("master_weights*"))) == (words == "")
    trainer = tiny.trainer(max_steps=3, **low)
    trainer.train()
    assert trainer.state.global_step == 3
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    parameters = sum(p.size for p in trainer.model.parameters())
    width = 4 if words in ("skip_save_model_weight", "enable_all_options") else 2
    assert index["metadata"]["total_size"] == width * parameters


def test_missing_master_weights_are_refused_unless_asked_for(tiny):
    low = {"bf16": True, "fp16_opt_level": "O2"}
    tiny.trainer(max_steps=2, unified_checkpoint_config="remove_master_weight", **low).train()
    with pytest.raises(UsageError, match="master_weight_compatible"):
        tiny.trainer(max_steps=3, **low).train()
    trainer = tiny.trainer(max_steps=3, unified_checkpoint_config="master_weight_compatible", **low)
    assert trainer.train().global_step == 3


def test_the_learning_rate_follows_the_arguments_of_the_present_run(tiny):
    tiny.trainer(max_steps=2).train()
    trainer = tiny.trainer(max_steps=10, learning_rate=0.5, min_learning_rate=0.5)
    rates = []

    from paddlenlp.trainer import TrainerCallback

    class Rates(TrainerCallback):
        def on_optimizer_begin(self, args, state, control, **kwargs):
            rates.append(kwargs["optimizer"].lr)

    trainer.add_callback(Rates)
    trainer.train()
    assert rates == [0.5] * 8


def test_history_is_kept_across_a_resume(tiny):
    tiny.trainer(max_steps=2).train()
    tiny.trainer(max_steps=4).train()
    state = json.loads((tiny.folder / "checkpoint-4/trainer_state.json").read_text())
    assert [r["global_step"] for r in state["log_history"] if "loss" in r] == [1, 2, 3, 4]
    assert state["max_steps"] == 4 and state["consumed_samples"] == 8
    needed = "best_metric best_model_checkpoint epoch is_local_process_zero is_world_process_zero num_train_epochs"
    assert set(needed.split()) | {"total_flos", "trial_name", "trial_params"} <= set(state)
