"""The training loop: its log lines, its checkpoints, what it refuses."""

from __future__ import annotations

import json
import math
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import paddle
import pytest

from paddlenlp.trainer import Trainer, TrainerCallback
from paddlenlp.utils.errors import UsageError

ROOT = pathlib.Path(__file__).resolve().parents[2]
TRAIN_KEYS = [
    "loss",
    "learning_rate",
    "global_step",
    "interval_runtime",
    "interval_samples_per_second",
    "interval_tokens_per_second_per_device",
    "interval_hardware_tflops_per_device",
    "interval_steps_per_second",
    "progress_or_epoch",
    "ppl",
    "tflops",
    "mfu",
    "data_wait",
    "grad_norm",
]


def records(trainer, key="loss"):
    return [r for r in trainer.state.log_history if key in r]


def test_log_line_entries_and_their_order(tiny):
    trainer = tiny.trainer()
    seen = []

    class Keep(TrainerCallback):
        def on_log(self, args, state, control, **kwargs):
            seen.append(list(kwargs["logs"]))

    trainer.add_callback(Keep)
    trainer.train()
    assert seen[:4] == [TRAIN_KEYS] * 4
    assert seen[4] == [
        "train_runtime",
        "train_samples_per_second",
        "train_steps_per_second",
        "train_loss",
        "progress_or_epoch",
    ]


def test_log_line_is_read_by_the_known_pipeline(tiny, tmp_path, capfd):
    trainer = tiny.trainer(max_steps=16, save_strategy="no")
    trainer.train()
    log = tmp_path / "workerlog.0"
    log.write_text(capfd.readouterr().err)
    pipeline = f"grep -a 'global_step: 15' {log} | awk -F ',' '{{print $2}}' | awk '{{print $6}}'"
    found = subprocess.run(["sh", "-c", pipeline], capture_output=True, text=True, check=True).stdout
    assert found.split() == [str(records(trainer)[14]["loss"])]


def test_logged_learning_rate_is_that_of_the_next_update(tiny):
    trainer = tiny.trainer(lr_scheduler_type="cosine", warmup_steps=2, save_strategy="no")
    used = []

    class Used(TrainerCallback):
        def on_optimizer_begin(self, args, state, control, **kwargs):
            used.append(float(f"{kwargs['optimizer'].lr:.3e}"))

    trainer.add_callback(Used)
    trainer.train()
    assert used[0] == 0.005 and used[1] == 0.01
    assert [r["learning_rate"] for r in records(trainer)][:-1] == used[1:]


def test_own_optimizer_and_schedule_are_used(tiny):
    from paddlenlp.trainer.optimizer import build_optimizer
    from paddlenlp.transformers.optimization import get_scheduler

    args = tiny.args()
    model, schedule = tiny.model(args), get_scheduler("constant", 0.25)
    optimizer = build_optimizer(model, args, schedule)
    trainer = tiny.trainer(model=model, optimizers=(optimizer, schedule), save_strategy="no")
    trainer.train()
    assert trainer.optimizer is optimizer
    assert {r["learning_rate"] for r in records(trainer)} == {0.25}


def test_loss_is_the_mean_of_the_interval_and_the_last_steps_are_logged(tiny):
    every = tiny.trainer(max_steps=5, save_strategy="no")
    every.train()
    losses = [r["loss"] for r in records(every)]
    some = tiny.trainer(max_steps=5, save_strategy="no", logging_steps=2, logging_first_step=True)
    result = some.train()
    logged = {r["global_step"]: r["loss"] for r in records(some)}
    assert list(logged) == [1, 2, 4, 5]
    assert logged[4] == pytest.approx((losses[2] + losses[3]) / 2, abs=1e-7)
    assert result.training_loss == pytest.approx(np.mean(losses), abs=1e-7)
    assert records(every)[0]["ppl"] == pytest.approx(math.exp(losses[0]), rel=1e-4)


def test_no_logging(tiny):
    trainer = tiny.trainer(logging_strategy="no", save_strategy="no")
    trainer.train()
    assert records(trainer) == [] and records(trainer, "train_loss") != []


def test_training_learns(tiny, tokens):
    data = tokens(64)
    data.samples[:] = np.arange(17) % 5
    trainer = tiny.trainer(data=data, max_steps=30, save_strategy="no", logging_steps=30)
    trainer.train()
    assert records(trainer)[-1]["loss"] < 0.7 * math.log(64)


def test_accumulation_sees_the_same_batch(tiny):
    tiny.dropout = 0.0
    one = tiny.trainer(per_device_train_batch_size=6, save_strategy="no", max_steps=2)
    one.train()
    six = tiny.trainer(per_device_train_batch_size=1, gradient_accumulation_steps=6, save_strategy="no", max_steps=2)
    six.train()
    for a, b in zip(records(one), records(six)):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-6)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-5)


def test_start_and_end_blocks(tiny, log_lines):
    tiny.trainer(gradient_accumulation_steps=2, save_strategy="no", max_steps=3).train()
    lines = log_lines()
    start = lines.index("***** Running training *****")
    assert lines[start + 1 : start + 8] == [
        "  Num examples = 64",
        "  Num Epochs = 1",
        "  Instantaneous batch size per device = 2",
        "  Total train batch size (w. parallel, distributed & accumulation) = 4",
        "  Gradient Accumulation steps = 2",
        "  Total optimization steps = 3",
        "  Total num train samples = 12",
    ]
    assert "\nTraining completed. \n" in lines


def test_resume_block(tiny, log_lines):
    tiny.trainer(max_steps=2).train()
    tiny.trainer(max_steps=3).train()
    lines = "\n".join(log_lines())
    assert "  Continuing training from epoch 0" in lines
    assert "  Continuing training from global step 2" in lines
    assert "  Set DistributedBatchSampler consumed_samples to 4" in lines


class PoisonedModel:
    """Wraps `train_batch` of a model: from a given step on its loss, or its gradients, are not finite."""

    def __init__(self, model, step, gradients_only=False):
        self.calls, self.step, self.gradients_only = 0, step, gradients_only
        self.real = model.train_batch
        model.train_batch = self

    def __call__(self, *given):
        self.calls += 1
        loss = self.real(*given)
        return loss if self.calls < self.step or self.gradients_only else loss * float("nan")


def test_a_loss_that_is_not_finite_stops_before_any_weight_changes(tiny):
    trainer = tiny.trainer()
    PoisonedModel(trainer.model, 3)
    with pytest.raises(UsageError, match=r"Step 3: Loss contains inf or nan.*skip_data_intervals '\[\[3, 3\]\]'"):
        trainer.train()
    saved = tiny.folder / "checkpoint-2"
    from paddlenlp.utils.tensor_files import TensorFiles

    files = TensorFiles(saved)
    assert all((files.read(name) == p.numpy()).all() for name, p in trainer.model.named_parameters())
    assert trainer.lr_scheduler.last_epoch == 3 and trainer.state.global_step == 2


def test_gradients_that_are_not_finite_stop_before_any_weight_changes(tiny):
    trainer = tiny.trainer(save_strategy="no")
    before = {name: p.numpy().copy() for name, p in trainer.model.named_parameters()}

    class Poison(TrainerCallback):
        def on_optimizer_begin(self, args, state, control, **kwargs):
            grad = next(iter(kwargs["model"].parameters())).grad
            grad.set_value(paddle.full_like(grad, float("inf")))

    trainer.add_callback(Poison)
    with pytest.raises(UsageError, match="Step 1: gradient norm is"):
        trainer.train()
    assert all((before[name] == p.numpy()).all() for name, p in trainer.model.named_parameters())


class Overflow(TrainerCallback):
    """Makes the gradients of some steps overflow."""

    def __init__(self, *steps):
        self.steps = steps

    def on_optimizer_begin(self, args, state, control, **kwargs):
        if state.global_step + 1 in self.steps:
            grad = next(iter(kwargs["model"].parameters())).grad
            grad.set_value(paddle.full_like(grad, float("inf")))


def test_fp16_overflow_skips_update_and_schedule(tiny, log_lines):
    trainer = tiny.trainer(fp16=True, scale_loss=1024.0, callbacks=[Overflow(2)], save_strategy="no")
    trainer.train()
    assert trainer.lr_scheduler.last_epoch == 4 and trainer.state.global_step == 4
    warnings = [line for line in log_lines() if "optimizer not run" in line]
    assert len(warnings) == 1 and "scale_before: 1024.0, scale_after: 512.0" in warnings[0]


def test_fp16_that_overflows_at_scale_one_gives_up(tiny):
    trainer = tiny.trainer(fp16=True, scale_loss=2.0, callbacks=[Overflow(1, 2, 3, 4)], save_strategy="no")
    with pytest.raises(UsageError, match="Step 2: .*overflow at loss scale 1"):
        trainer.train()


def test_skipped_steps_read_data_but_do_not_train(tiny, tokens):
    data = tokens(64)
    trainer = tiny.trainer(data=data, max_steps=5, skip_data_intervals=[[2, 3]], save_strategy="no")
    trainer.train()
    assert trainer.state.global_step == 5 and trainer.state.trained_steps == 3
    assert trainer.lr_scheduler.last_epoch == 4 and trainer.state.consumed_samples == 10
    logs = records(trainer)
    assert logs[1]["loss"] == 0.0 and "ppl" not in logs[1] and logs[3]["loss"] > 0
    assert trainer.state.train_loss > 3


def test_trained_tokens_are_counted(tiny, tokens, log_lines):
    data = tokens(64)
    data.samples[:, :4] = 63
    data.samples[:, 4:] %= 63
    tiny.trainer(data=data, max_steps=2, count_trained_tokens=True, pad_token_id=63).train()
    tiny.trainer(data=data, max_steps=3, count_trained_tokens=True, pad_token_id=63).train()
    counts = [line for line in log_lines() if line.startswith("Update to now")]
    assert counts[0] == "Update to now, trained_effective_tokens: 24, trained_tokens: 32."
    assert counts[-1] == "Update to now, trained_effective_tokens: 72, trained_tokens: 96."


def test_profile_and_memory_lines(tiny, log_lines):
    trainer = tiny.trainer(max_steps=1, skip_profile_timer=False, skip_memory_metrics=False, save_strategy="no")
    trainer.train()
    parts = [rf"{name}: \d+\.\d\d" for name in ("read-data", "forward-backward", "optimizer-step")]
    line = r" \| ".join([r"\[Profile global_step: 1\] time \(ms\)", *parts])
    assert any(re.fullmatch(line, text) for text in log_lines())
    assert records(trainer)[0]["cpu_mem_used"] > 50 and records(trainer)[0]["cpu_mem_used_peak"] > 50


def test_no_profile_and_memory_lines_by_default(tiny, log_lines):
    trainer = tiny.trainer(max_steps=1, save_strategy="no")
    trainer.train()
    assert not any("Profile" in text for text in log_lines()) and "cpu_mem_used" not in records(trainer)[0]


class Tokenizer:
    eos_token_id = None

    def encode_ids(self, text):
        return [ord(c) % 64 for c in text]

    def decode(self, ids, skip_special_tokens=False):
        return f"<{len(ids)} tokens from {ids[:2]}>"

    def save_pretrained(self, folder):
        (folder / "tokenizer.json").write_text("{}")


def test_files_of_a_checkpoint_and_of_the_final_model(tiny, tmp_path):
    record = tmp_path / "run_config.json"
    record.write_text("{}")
    trainer = tiny.trainer(tokenizer=Tokenizer(), extra=[record], save_steps=4)
    metrics = trainer.train().metrics
    trainer.save_model()
    trainer.save_metrics("train", metrics)
    trainer.save_metrics("eval", {"eval_loss": 1.0})
    trainer.save_state()
    weights = {"model-00001-of-00001.safetensors", "model.safetensors.index.json"}
    described = {"config.json", "generation_config.json", "tokenizer.json", "run_config.json"}
    optimizer = {"optimizer-00001-of-00001.safetensors", "optimizer.safetensors.index.json"}
    states = {"trainer_state.json", "scheduler.json", "rng_state.json", "manifest.json"}
    checkpoint = {p.name for p in (tiny.folder / "checkpoint-4").iterdir()}
    assert checkpoint == weights | described | optimizer | states
    root = {p.name for p in tiny.folder.iterdir() if p.is_file()}
    results = {"train_results.json", "eval_results.json", "all_results.json", "trainer_state.json", "metrics.jsonl"}
    assert root == weights | described | results | {".run.lock"}
    together = json.loads((tiny.folder / "all_results.json").read_text())
    assert together == {**metrics, "eval_loss": 1.0}
    scheduler = json.loads((tiny.folder / "checkpoint-4/scheduler.json").read_text())
    assert scheduler == {"last_epoch": 5, "last_lr": trainer.lr_scheduler.last_lr}


def test_final_model_is_read_by_from_pretrained(tiny):
    from paddlenlp.transformers import AutoModelForCausalLM

    trainer = tiny.trainer(save_strategy="no")
    trainer.train()
    trainer.save_model()
    again = AutoModelForCausalLM.from_pretrained(str(tiny.folder))
    assert all((a.numpy() == b.numpy()).all() for a, b in zip(again.parameters(), trainer.model.parameters()))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"save_steps": 2, "max_steps": 5}, [2, 4, 5]),
        ({"save_steps": 1, "max_steps": 5, "save_total_limit": 2}, [4, 5]),
        ({"save_strategy": "no"}, []),
        ({"save_strategy": "epoch"}, [4]),
    ],
)
def test_which_checkpoints_are_kept(tiny, changes, expected):
    tiny.trainer(**changes).train()
    assert sorted(int(p.name.split("-")[1]) for p in tiny.folder.glob("checkpoint-*")) == expected


def test_keyboard_interrupt_says_where_the_run_goes_on(tiny, log_lines):
    class Interrupt(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny.trainer(callbacks=[Interrupt]).train()
    said = f"Interrupted at step 3 of 4. The same command goes on from {tiny.folder / 'checkpoint-2'}."
    assert said in log_lines()
    assert tiny.trainer().train().global_step == 4


def test_sample_text_before_and_after(tiny, log_lines):
    prompt = {"sample_prompt": "ab", "sample_max_new_tokens": 3, "save_strategy": "no"}
    with_sample = tiny.trainer(tokenizer=Tokenizer(), **prompt)
    with_sample.train()
    lines = [line for line in log_lines() if line.startswith("Sample")]
    assert lines == [f"Sample {w} training: '<5 tokens from [33, 34]>'" for w in ("before", "after")]
    without = tiny.trainer(save_strategy="no")
    without.train()
    assert [r["loss"] for r in records(with_sample)] == [r["loss"] for r in records(without)]


def test_a_failing_sample_does_not_stop_training(tiny, log_lines):
    trainer = tiny.trainer(tokenizer=None, sample_prompt="ab", save_strategy="no")
    assert trainer.train().global_step == 4
    assert sum(line.startswith("No sample") for line in log_lines()) == 2


def test_training_without_data_or_steps_is_refused(tiny):
    from paddlenlp.data import collate_causal_lm

    args = tiny.args()
    with pytest.raises(UsageError, match="train_dataset"):
        Trainer(tiny.model(args), args, collate_causal_lm).train()
    with pytest.raises(UsageError, match="max_steps"):
        tiny.trainer(max_steps=-1).train()


def test_a_dataset_smaller_than_a_step_is_refused_with_drop_last(tiny, tokens):
    with pytest.raises(UsageError, match="3 sample"):
        tiny.trainer(data=tokens(3), gradient_accumulation_steps=2, dataloader_drop_last=True).train()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_data_workers_end_with_a_killed_process():
    program = """
import os, time
from paddlenlp.data import DistributedBatchSampler
from paddlenlp.trainer.batches import make_loader
class Data:
    def __len__(self): return 8
    def __getitem__(self, i):
        import numpy
        return numpy.array([os.getpid()])
batches = make_loader(Data(), DistributedBatchSampler(8, 2), lambda rows: rows[0], workers=1)
print(int(next(batches)), flush=True)
time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    worker = int(process.stdout.readline())
    assert worker != process.pid and alive(worker)
    process.kill()
    process.wait()
    for _ in range(3000):
        if not alive(worker):
            return
        time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker outlived its parent")


def alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_metrics_table(tiny, log_lines):
    trainer = tiny.trainer()
    trainer.log_metrics("train", {"train_runtime": 3661.257, "train_loss": 2.34567, "steps": 12})
    assert log_lines()[-4:] == [
        "***** train metrics *****",
        "  steps         =         12",
        "  train_loss    =     2.3457",
        "  train_runtime = 1:01:01.25",
    ]


def test_a_checkpoint_that_will_not_fit_is_found_out_before_training(tiny, monkeypatch):
    monkeypatch.setattr("paddlenlp.checkpoint.space.free_bytes", lambda path: 1000)
    trainer = tiny.trainer()
    with pytest.raises(UsageError, match="1,000 are free"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_no_space_is_asked_for_when_nothing_is_saved(tiny, monkeypatch):
    monkeypatch.setattr("paddlenlp.checkpoint.space.free_bytes", lambda path: 1000)
    assert tiny.trainer(save_strategy="no").train().global_step == 4


def test_going_on_from_an_older_checkpoint_names_the_newer_ones(tiny, log_lines):
    tiny.trainer().train()
    tiny.trainer(max_steps=3).train(tiny.folder / "checkpoint-2")
    assert any("also holds checkpoint-4" in line for line in log_lines())
