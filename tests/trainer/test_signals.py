"""A signal ends a run at a step that has been saved, whatever the run was doing when it came."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import paddle  # sets handlers of its own, which listen() is to replace
import pytest

from paddlenlp.checkpoint.manifest import verify
from paddlenlp.parallel import failure, signals
from paddlenlp.trainer import sample_text
from paddlenlp.trainer.callbacks import TrainerCallback
from paddlenlp.trainer.state import TrainerState

SIGNALS = ["SIGTERM", "SIGINT", "SIGUSR1"]
RUN = {"do_eval": True, "eval_steps": 1, "save_steps": 2, "logging_steps": 1, "gradient_accumulation_steps": 3}
PHASES = {
    # what the run does -> the step after which it stops, and how many evaluations it has finished by then
    "reads data": (1, 1),
    "begins a step": (1, 1),
    "is between micro batches": (1, 1),
    "is in its last micro batch": (2, 1),
    "updates": (2, 1),
    "logs": (1, 0),
    "evaluates": (1, 0),
    "saves": (2, 2),
    "evaluates its last step": (4, 3),
    "has saved its last step": (4, 4),
}
MOMENTS = {
    "begins a step": "on_step_begin",
    "updates": "on_optimizer_begin",
    "logs": "on_log",
    "evaluates": "on_prediction_step",
    "saves": "on_save",
    "evaluates its last step": "on_prediction_step",
    "has saved its last step": "on_save",
}
LONG = 60.0
"""Seconds to wait for what happens in a moment."""


@pytest.fixture(autouse=True)
def listening():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    signals.forget()
    signals.listen()
    yield
    signals.forget()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def whole(tiny, tmp_path, run_hash_of):
    """What the run leaves that no signal interrupts, by hash; and the records of its evaluations."""
    trainer = tiny.trainer(output_dir=str(tmp_path / "whole"), load_best_model_at_end=True, **RUN)
    trainer.train()
    return run_hash_of(trainer), evaluations(trainer), best(trainer)


def evaluations(trainer):
    return [(r["global_step"], r["eval_loss"]) for r in trainer.state.log_history if "eval_loss" in r]


def best(trainer):
    state = trainer.state
    return state.best_metric, os.path.basename(state.best_model_checkpoint)


class Waits:
    """Samples of which one does not come until `come` is set; `asked` says that it is waited for."""

    def __init__(self, samples, which):
        self.samples, self.which = samples, which
        self.asked, self.come = threading.Event(), threading.Event()

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        if index == self.which:
            self.asked.set()
            assert self.come.wait(LONG)
        return self.samples[index]


def send(number):
    os.kill(os.getpid(), number)


def wait_for(condition):
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def sends(number, moment, step=1):
    """A callback that sends this process a signal, once, at the first `moment` from this step on."""

    def at(self, args, state, control, **kwargs):
        if state.global_step >= step and not signals.heard():
            send(number)

    return type("Sends", (TrainerCallback,), {moment: at})


def interrupted(tiny, tokens, phase, number):
    """The trainer of a run that a signal will reach in this phase of its second step, or in its last one."""
    options = {"load_best_model_at_end": True, **RUN}
    if phase == "reads data":
        data = Waits(tokens(64), 8)
        trainer = tiny.trainer(data=data, **options)
        until = lambda: data.asked.is_set() and trainer.present_metrics and not trainer.state.pending  # noqa: E731
        threading.Thread(target=lambda: (wait_for(until), send(number)), daemon=True).start()
        return trainer, data.come
    if "micro batch" in phase:
        trainer = tiny.trainer(**options)
        count_forward_passes(trainer.model, 3 + (1 if "between" in phase else 3), lambda: send(number))
        return trainer, None
    step = 4 if "last step" in phase else 1
    return tiny.trainer(callbacks=[sends(number, MOMENTS[phase], step)], **options), None


def count_forward_passes(model, which, then):
    """Do `then` in the middle of forward pass number `which` of the training."""
    passes, run = [0], model.run

    def counted(*args, **kwargs):
        passes[0] += paddle.is_grad_enabled()
        if paddle.is_grad_enabled() and passes[0] == which:
            then()
        return run(*args, **kwargs)

    model.run = counted


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("name", SIGNALS)
def test_the_run_is_saved_and_goes_on_bitwise(tiny, tokens, whole, run_hash_of, log_lines, phase, name):
    trainer, come = interrupted(tiny, tokens, phase, getattr(signal, name))
    with pytest.raises(signals.Agreed, match=f"stopped on {name} at step") as stopped:
        trainer.train()
    if come is not None:
        assert signals.has_left_behind()  # what would never come is not waited for
        come.set()
    assert stopped.value.number == getattr(signal, name)
    step, evaluated = PHASES[phase]
    where = tiny.folder / f"checkpoint-{step}"
    assert f"at step {step} of 4. The same command goes on from {where}." in str(stopped.value)
    assert not [line for line in log_lines() if "Interrupted" in line]  # it is said once
    assert verify(where) == []
    assert all(param.grad is None for param in trainer.model.parameters())
    assert len(evaluations(trainer)) == evaluated  # the one under way is cut short
    signals.forget()
    again = tiny.trainer(load_best_model_at_end=True, **RUN)
    again.train()
    assert (run_hash_of(again), evaluations(again), best(again)) == whole


def test_nothing_is_saved_where_nothing_is_to_be(tiny):
    with pytest.raises(signals.Agreed, match="at step 2 of 4. No checkpoint was saved yet."):
        tiny.trainer(callbacks=[sends(signal.SIGTERM, "on_step_begin")], save_strategy="no").train()
    assert not list(tiny.folder.glob("checkpoint-*"))


def test_a_save_beside_the_training_is_waited_for(tiny, run_hash_of, monkeypatch):
    """And the last step, which is saved after it, too."""
    options = {"save_steps": 2, "unified_checkpoint_config": "async_save"}
    trainer, saved = tiny.trainer(callbacks=[sends(signal.SIGTERM, "on_step_begin", 2)], **options), []
    save = trainer.keeper.save
    monkeypatch.setattr(
        trainer.keeper, "save", lambda state, *rest: (saved.append(state.global_step), save(state, *rest))
    )
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (time.sleep(0.1), sync(file)))
    with pytest.raises(signals.Agreed, match="at step 3 of 4"):
        trainer.train()
    assert saved == [2, 3]
    assert [verify(tiny.folder / f"checkpoint-{step}") for step in saved] == [[], []]


def test_a_process_does_not_wait_for_what_never_comes(monkeypatch):
    ended = []
    monkeypatch.setattr(failure.os, "_exit", ended.append)

    def main():
        signals.leave_behind()
        raise signals.Agreed(signal.SIGTERM, "stopped on SIGTERM")

    failure.run_as_rank(main)
    assert ended == [128 + signal.SIGTERM]


def test_what_keeps_a_process_that_is_over_is_left():
    """Such as a data loader whose next samples do not come; `atexit` is where Paddle's waits for them."""
    program = (
        "import atexit, signal, sys, threading\n"
        "from paddlenlp.parallel import failure, signals\n"
        "failure.PARTING = 0.1\n"
        "atexit.register(threading.Event().wait)\n"
        "def main():\n"
        "    raise signals.Agreed(signal.SIGTERM, 'stopped on SIGTERM')\n"
        "sys.exit(failure.run_as_rank(main))\n"
    )
    root = Path(__file__).resolve().parent.parent.parent
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=LONG)
    assert (done.returncode, done.stderr) == (128 + signal.SIGTERM, "stopped on SIGTERM\n")


def test_a_run_that_has_made_no_step_leaves_nothing(tiny):
    trainer = tiny.trainer(**RUN)
    count_forward_passes(trainer.model, 1, lambda: send(signal.SIGTERM))
    with pytest.raises(signals.Agreed, match="at step 0 of 4. No checkpoint was saved yet."):
        trainer.train()
    assert not list(tiny.folder.glob("*checkpoint-*"))


def test_what_an_interrupted_evaluation_owes_is_paid_once(tiny):
    with pytest.raises(signals.Agreed):
        tiny.trainer(callbacks=[sends(signal.SIGTERM, "on_prediction_step")], **RUN).train()
    signals.forget()
    again = tiny.trainer(**RUN)
    again.train()
    assert [step for step, _ in evaluations(again)] == [1, 2, 3, 4]
    assert not TrainerState.from_dict(json.loads((again.keeper.last / "trainer_state.json").read_text())).pending


def test_an_evaluation_whose_data_does_not_come_is_left(tiny, tokens):
    valid = Waits(tokens(40, seed=1), 4)
    threading.Thread(target=lambda: (valid.asked.wait(LONG), send(signal.SIGTERM)), daemon=True).start()
    with pytest.raises(signals.Agreed, match="at step 1 of 4. The same command goes on from"):
        tiny.trainer(valid=valid, **RUN).train()
    valid.come.set()


def test_after_training_an_evaluation_ends_between_two_batches(tiny, tokens):
    trainer = tiny.trainer(callbacks=[sends(signal.SIGTERM, "on_prediction_step", step=0)], **RUN)
    with pytest.raises(signals.Agreed, match="^stopped on SIGTERM during the prediction$"):
        trainer.predict(tokens(40))
    assert trainer.state.log_history == []


def test_the_final_weights_are_written_before_a_signal_ends_the_run(tiny, monkeypatch):
    trainer = tiny.trainer()
    write = trainer.model.save_pretrained
    monkeypatch.setattr(trainer.model, "save_pretrained", lambda folder: (send(signal.SIGTERM), write(folder)))
    with pytest.raises(signals.Agreed, match=f"^stopped on SIGTERM after writing the model to {tiny.folder}$"):
        trainer.save_model()
    type(trainer.model).from_pretrained(tiny.folder)


def test_a_sample_text_is_left_at_once(tiny, monkeypatch):
    """Nothing has been trained yet, or all is saved."""
    monkeypatch.setattr(sample_text, "sample_text", lambda *_: send(signal.SIGTERM))
    with pytest.raises(signals.Stopped) as stopped:
        tiny.trainer(sample_prompt="x").train()
    assert not isinstance(stopped.value, signals.Agreed)
    assert not list(tiny.folder.glob("checkpoint-*"))


def test_a_signal_does_not_interrupt_the_loading_of_a_library():
    """Threads that take the signal make no difference."""
    passed, over = [], threading.Event()
    threading.Thread(target=over.wait, args=(LONG,), daemon=True).start()
    with pytest.raises(signals.Stopped), signals.held():
        send(signal.SIGTERM)
        time.sleep(0.1)
        passed.append("the end of it")
    over.set()
    assert passed and signals.interrupted_by() == signal.SIGTERM


def test_outside_of_training_a_signal_ends_at_once():
    with pytest.raises(signals.Stopped, match="interrupted"):
        os.kill(os.getpid(), signal.SIGTERM)
    assert signals.interrupted_by() == signal.SIGTERM


@pytest.mark.parametrize("later, ends", [(0.5, False), (3.0, True)], ids=["of the launcher", "of the user"])
def test_a_second_signal(monkeypatch, later, ends):
    """Launchers send theirs several times within a second; a user who sends one again means it."""
    now = [100.0]
    monkeypatch.setattr(signals.time, "monotonic", lambda: now[0])
    with signals.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        now[0] += later
        if ends:
            with pytest.raises(signals.Stopped):
                os.kill(os.getpid(), signal.SIGTERM)
        else:
            os.kill(os.getpid(), signal.SIGTERM)
    assert signals.heard() == signal.SIGTERM
