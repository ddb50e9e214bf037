"""Evaluation: which samples, which mean, and that it leaves no trace in the run."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import paddle
import pytest

from paddlenlp.trainer import TrainerCallback
from paddlenlp.trainer.evaluation import EvalPlan, plan_evaluation
from paddlenlp.utils.errors import UsageError


def evaluations(trainer):
    return [r for r in trainer.state.log_history if "eval_loss" in r]


def test_each_evaluation_takes_the_next_samples(tiny):
    args = tiny.args(per_device_eval_batch_size=3, eval_iters=4)
    assert plan_evaluation(args, 100, 4, 0) == EvalPlan(0, 4, 3, 12)
    assert plan_evaluation(args, 100, 4, 2) == EvalPlan(24, 4, 3, 12)
    assert plan_evaluation(args, 30, 4, 2) == EvalPlan(0, 4, 3, 12)
    assert plan_evaluation(args, 10, 4, 0) == EvalPlan(0, 4, 3, 10)


def test_max_evaluate_steps_bounds_the_batches(tiny, tokens):
    assert plan_evaluation(tiny.args(max_evaluate_steps=1), 100, 4).batches == 1
    valid = tokens(40)
    tiny.trainer(valid=valid, max_evaluate_steps=1).evaluate()
    assert valid.read[:2] == [0, 1]


def test_an_empty_evaluation_set_is_refused(tiny):
    with pytest.raises(UsageError, match="0 sample"):
        plan_evaluation(tiny.args(), 0, 4)
    trainer = tiny.trainer()
    trainer.eval_dataset = None
    with pytest.raises(UsageError, match="Evaluation needs a dataset"):
        trainer.evaluate()


def test_loss_is_the_mean_over_kept_tokens_of_uneven_batches(tiny, tokens):
    """With batches of 2 and 1 and a label masked, the mean of the batch means would be wrong."""
    valid = tokens(3)
    trainer = tiny.trainer(valid=valid, eval_iters=5)
    collate = trainer.data_collator

    def masking(samples):
        batch = collate(samples)
        if len(samples) == 1:
            batch["labels"][:, 3:] = -100
        return batch

    trainer.data_collator = masking
    metrics = trainer.evaluate()
    trainer.model.eval()
    total, kept = 0.0, 0
    with paddle.no_grad():
        for row in valid.samples[:, None]:
            logits = trainer.model(paddle.to_tensor(row[:, :-1])).numpy().astype(np.float64)[0]
            labels = row[0, 1:] if not (row == valid.samples[2]).all() else row[0, 1:4]
            shifted = logits[: len(labels)] - logits[: len(labels)].max(-1, keepdims=True)
            logp = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
            total, kept = total - logp[np.arange(len(labels)), labels].sum(), kept + len(labels)
    assert kept == 16 + 16 + 3
    assert metrics["eval_loss"] == pytest.approx(total / kept, rel=1e-5)
    assert metrics["eval_ppl"] == pytest.approx(math.exp(total / kept), rel=1e-4)


def test_evaluation_leaves_no_trace_in_the_run(tiny, run_hash_of):
    class Draw(TrainerCallback):
        def on_prediction_step(self, args, state, control, **kwargs):
            random.random(), np.random.rand(), paddle.rand([1])

    plain = tiny.trainer(save_strategy="no")
    plain.train()
    watched = tiny.trainer(save_strategy="no", do_eval=True, eval_steps=1, bf16_full_eval=True, callbacks=[Draw])
    watched.train()
    assert len(evaluations(watched)) == 4
    assert run_hash_of(watched) == run_hash_of(plain)


def test_full_eval_rounds_the_weights_and_gives_them_back(tiny, run_hash_of):
    tiny.dropout = 0.0
    trainer = tiny.trainer(valid=None)
    exact, before = trainer.evaluate()["eval_loss"], run_hash_of_model(trainer)
    rounded = tiny.trainer(bf16_full_eval=True)
    loss = rounded.evaluate()["eval_loss"]
    assert loss != exact and loss == pytest.approx(exact, rel=1e-2)
    assert run_hash_of_model(rounded) == before


def run_hash_of_model(trainer):
    return [p.numpy().tobytes() for p in trainer.model.parameters()]


def test_order_of_entries_and_announcement(tiny, log_lines):
    metrics = tiny.trainer().evaluate()
    speed = ["eval_runtime", "eval_samples_per_second", "eval_steps_per_second"]
    assert list(metrics) == ["eval_loss", *speed, "progress_or_epoch", "eval_ppl"]
    lines = log_lines()
    start = lines.index("***** Running Evaluation *****")
    assert lines[start + 1 : start + 5] == [
        "  Num examples = 4",
        "  Total prediction steps = 2",
        "  Pre device batch size = 2",
        "  Total Batch size = 2",
    ]
    assert lines[start + 5].startswith("eval_loss: ")


def test_when_to_evaluate(tiny):
    steps = tiny.trainer(max_steps=5, evaluation_strategy="steps", eval_steps=2, save_strategy="no")
    steps.train()
    assert [r["global_step"] for r in evaluations(steps)] == [2, 4]
    default = tiny.trainer(max_steps=4, do_eval=True, logging_steps=3, save_strategy="no")
    default.train()
    assert [r["global_step"] for r in evaluations(default)] == [3]
    often = tiny.trainer(max_steps=4, do_eval=True, eval_steps=50, minimum_eval_times=2, save_strategy="no")
    often.train()
    assert [r["global_step"] for r in evaluations(often)] == [2, 4]
    end = tiny.trainer(max_steps=3, evaluation_strategy="epoch", save_strategy="no")
    end.train()
    assert [r["global_step"] for r in evaluations(end)] == [3]
    never = tiny.trainer(save_strategy="no")
    never.train()
    assert evaluations(never) == []


def test_prediction_is_measured_logged_and_saved(tiny, tokens):
    trainer = tiny.trainer()
    test = tokens(50, seed=2)
    output = trainer.predict(test)
    assert test.read[:6] == [0, 1, 2, 3, 4, 5]
    assert list(output.metrics)[0] == "test_loss" and output.predictions is None
    trainer.save_metrics("test", output.metrics)
    saved = json.loads((tiny.folder / "test_results.json").read_text())
    assert saved == output.metrics
    assert trainer.state.log_history[-1]["test_loss"] == saved["test_loss"]


class Chosen:
    """Makes evaluations of a trainer return given losses."""

    def __init__(self, trainer, losses):
        self.losses, self.real = list(losses), trainer._measure
        trainer._measure = self

    def __call__(self, *args):
        return {**self.real(*args), "eval_loss": self.losses.pop(0)}


def weights_of(folder):
    from paddlenlp.utils.tensor_files import TensorFiles

    files = TensorFiles(folder)
    return {name: files.read(name) for name in files}


@pytest.mark.parametrize(("greater", "best"), [(None, 2), (True, 1)])
def test_the_best_checkpoint_is_kept_and_loaded(tiny, greater, best):
    changes = dict(
        max_steps=4,
        save_steps=1,
        do_eval=True,
        eval_steps=1,
        save_total_limit=1,
        load_best_model_at_end=True,
        greater_is_better=greater,
    )
    trainer = tiny.trainer(**changes)
    Chosen(trainer, [4.0, 1.0, 3.0, 2.0])
    trainer.train()
    folder = tiny.folder / f"checkpoint-{best}"
    assert trainer.state.best_model_checkpoint == str(folder)
    assert trainer.state.best_metric == {1: 4.0, 2: 1.0}[best]
    saved = weights_of(folder)
    assert all((saved[name] == p.numpy()).all() for name, p in trainer.model.named_parameters())
    last = weights_of(tiny.folder / "checkpoint-4")
    assert any((saved[name] != last[name]).any() for name in saved)


def test_without_load_best_the_last_weights_stay(tiny):
    trainer = tiny.trainer(save_steps=1, do_eval=True, eval_steps=1)
    Chosen(trainer, [1.0, 2.0, 3.0, 4.0])
    trainer.train()
    last = weights_of(tiny.folder / "checkpoint-4")
    assert trainer.state.best_metric == 1.0
    assert all((last[name] == p.numpy()).all() for name, p in trainer.model.named_parameters())


def test_metric_for_best_model(tiny):
    trainer = tiny.trainer(save_steps=1, do_eval=True, eval_steps=1, metric_for_best_model="samples_per_second")
    trainer.train()
    speeds = [r["eval_samples_per_second"] for r in evaluations(trainer)]
    assert trainer.state.best_metric == max(speeds)


def test_the_final_evaluation_is_made_once(tiny, log_lines):
    trainer = tiny.trainer(do_eval=True, eval_steps=2)
    trainer.train()
    evaluations = sum("Running Evaluation" in line for line in log_lines())
    metrics = trainer.final_evaluation()
    assert sum("Running Evaluation" in line for line in log_lines()) == evaluations == 2
    assert metrics["eval_loss"] == trainer.evaluate()["eval_loss"]


def test_the_final_evaluation_is_of_the_weights_as_they_are(tiny):
    trainer = tiny.trainer(do_eval=True, eval_steps=2, max_steps=3)
    trainer.train()
    assert trainer.present_metrics is None
    assert trainer.final_evaluation()["eval_loss"] == trainer.evaluate()["eval_loss"]


def test_the_best_weights_are_evaluated_anew(tiny):
    trainer = tiny.trainer(do_eval=True, eval_steps=2, load_best_model_at_end=True)
    trainer.train()
    assert trainer.present_metrics is None
