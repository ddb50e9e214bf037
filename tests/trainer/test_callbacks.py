"""Callbacks: which events happen in which order, and what the built-in ones do."""

from __future__ import annotations

import io
import sys

import pytest

from paddlenlp.trainer import CallbackHandler, EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState
from paddlenlp.trainer.best import is_better
from paddlenlp.trainer.callbacks import DefaultFlowCallback, PrinterCallback
from paddlenlp.trainer.progress import ProgressCallback
from paddlenlp.trainer.trainer import default_callbacks
from paddlenlp.utils.errors import UsageError

EVENTS = [name for name in vars(TrainerCallback) if name.startswith("on_")]


class Recorder(TrainerCallback):
    """Remembers every event with the step it came at."""

    def __init__(self):
        self.events = []
        self.objects = set()

    def names(self, *wanted):
        return [(name, step) for name, step in self.events if name in wanted]


def _recording(name):
    def event(self, args, state, control, **kwargs):
        self.events.append((name[3:], state.global_step))
        self.objects |= {key for key, value in kwargs.items() if value is not None}

    return event


for _name in EVENTS:
    setattr(Recorder, _name, _recording(_name))


def test_events_and_their_order(tiny):
    recorder = Recorder()
    changes = dict(max_steps=2, gradient_accumulation_steps=3, do_eval=True, eval_steps=2, eval_iters=2)
    trainer = tiny.trainer(callbacks=[recorder], tokenizer=None, **changes)
    trainer.train()
    step = ["load_data_end", "step_begin", "optimizer_begin", "optimizer_end", "substep_end", "substep_end"]
    assert [name for name, _ in recorder.events] == (
        ["init_end", "train_begin", "epoch_begin"]
        + [*step, "step_end", "log"]
        + [*step, "step_end", "log", "prediction_step", "prediction_step", "log", "evaluate", "save"]
        + ["epoch_end", "log", "train_end", "close"]
    )
    assert recorder.names("step_begin", "step_end") == [
        ("step_begin", 0),
        ("step_end", 1),
        ("step_begin", 1),
        ("step_end", 2),
    ]
    needed = {"model", "optimizer", "lr_scheduler", "train_dataloader", "logs", "metrics", "inputs", "checkpoint"}
    assert needed <= recorder.objects


def test_on_close_comes_after_an_exception_too(tiny):
    recorder = Recorder()

    class Fail(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        tiny.trainer(callbacks=[recorder, Fail]).train()
    assert recorder.events[-1] == ("close", 1)
    assert recorder.names("train_end") == []


def test_passes_over_the_data(tiny, tokens):
    recorder = Recorder()
    tiny.trainer(data=tokens(4), max_steps=5, callbacks=[recorder], save_strategy="no").train()
    assert recorder.names("epoch_begin", "epoch_end") == [
        ("epoch_begin", 0),
        ("epoch_end", 2),
        ("epoch_begin", 2),
        ("epoch_end", 4),
        ("epoch_begin", 4),
        ("epoch_end", 5),
    ]


def test_epoch_strategies_act_at_the_end_of_each_pass_and_of_the_run(tiny, tokens):
    epoch = dict(logging_strategy="epoch", save_strategy="epoch", evaluation_strategy="epoch")
    recorder = Recorder()
    tiny.trainer(data=tokens(4), max_steps=5, callbacks=[recorder], **epoch).train()
    assert recorder.names("save") == [("save", 2), ("save", 4), ("save", 5)]
    assert recorder.names("evaluate") == [("evaluate", 2), ("evaluate", 4), ("evaluate", 5)]


def test_a_callback_can_stop_training_and_the_step_is_saved(tiny):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 3

    trainer = tiny.trainer(max_steps=9, save_steps=100, callbacks=[Stop])
    assert trainer.train().global_step == 3
    assert [p.name for p in tiny.folder.glob("checkpoint-*")] == ["checkpoint-3"]


def test_a_callback_can_ask_for_the_next_pass(tiny, tokens):
    class Next(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_epoch_stop = state.global_step == 1

    data = tokens(6)
    trainer = tiny.trainer(data=data, max_steps=2, callbacks=[Next], save_strategy="no")
    trainer.train()
    assert trainer.state.consumed_samples == 8


def test_a_returned_control_is_taken(tiny):
    class Own(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            return TrainerControl(should_training_stop=True)

    assert tiny.trainer(max_steps=9, callbacks=[Own], save_strategy="no").train().global_step == 1


def test_handler_adds_and_takes_out_by_object_and_class():
    recorder = Recorder()
    handler = CallbackHandler([recorder, PrinterCallback])
    assert handler.pop(PrinterCallback).__class__ is PrinterCallback
    assert handler.pop(PrinterCallback) is None
    assert handler.pop(recorder) is recorder and handler.callbacks == []


def test_is_better():
    assert is_better(1.0, None, False) and is_better(1.0, 2.0, False) and is_better(2.0, 1.0, True)
    assert not is_better(1.0, 1.0, False) and not is_better(float("nan"), None, True)
    assert not is_better(0.9, 1.0, False, threshold=0.2) and is_better(0.7, 1.0, False, threshold=0.2)


def test_early_stopping_after_patience(tiny):
    losses = iter([3.0, 2.0, 2.5, 2.4, 2.3, 1.0])
    changes = dict(max_steps=6, do_eval=True, eval_steps=1, save_steps=1)
    trainer = tiny.trainer(callbacks=[EarlyStoppingCallback(early_stopping_patience=3)], **changes)
    real = trainer._measure
    trainer._measure = lambda *args: {**real(*args), "eval_loss": next(losses)}
    assert trainer.train().global_step == 5
    assert (tiny.folder / "checkpoint-5").exists()


def test_early_stopping_needs_evaluations(tiny):
    with pytest.raises(UsageError, match="evaluation_strategy"):
        tiny.trainer(callbacks=[EarlyStoppingCallback]).train()


def test_early_stopping_without_its_metric_says_so(tiny, log_lines):
    callback, control = EarlyStoppingCallback(), TrainerControl()
    callback.on_evaluate(tiny.args(metric_for_best_model="f1"), TrainerState(), control, metrics={"eval_loss": 1.0})
    assert not control.should_training_stop and "has no eval_f1" in log_lines()[-1]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("disable", "terminal", "expected"),
    [
        (None, True, ProgressCallback),
        (None, False, PrinterCallback),
        (False, False, ProgressCallback),
        (True, True, PrinterCallback),
    ],
)
def test_bar_or_lines(tiny, monkeypatch, disable, terminal, expected):
    monkeypatch.setattr(sys, "stderr", Terminal() if terminal else io.StringIO())
    callbacks = default_callbacks(tiny.args(disable_tqdm=disable))
    assert callbacks[0] is DefaultFlowCallback and callbacks[-1] is expected


def test_progress_bar_shows_loss_and_keeps_the_log_lines_whole(tiny, monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    trainer = tiny.trainer(disable_tqdm=False, do_eval=True, eval_steps=2, save_strategy="no")
    trainer.train()
    text = screen.getvalue()
    assert "TrainProcess: 100%" in text and "4/4" in text and "Evaluating" in text
    last = [r for r in trainer.state.log_history if "loss" in r][-1]
    assert f"loss={last['loss']:.4f}, lr=0.001" in text
    lines = [line.rsplit("\r", 1)[-1] for line in text.split("\n")]
    assert sum(" - loss: " in line and "progress_or_epoch" in line for line in lines) == 4


def test_progress_bar_of_a_resumed_run_starts_at_its_step(tiny, monkeypatch):
    tiny.trainer(max_steps=2).train()
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    tiny.trainer(disable_tqdm=False, max_steps=3).train()
    assert "2/3" in screen.getvalue() and "0/3" not in screen.getvalue()


def test_logger_is_as_before_after_the_bar(tiny, monkeypatch):
    from paddlenlp.utils.log import logger

    before = list(logger.handlers)
    tiny.trainer(disable_tqdm=False, save_strategy="no", max_steps=1).train()
    assert logger.handlers == before
