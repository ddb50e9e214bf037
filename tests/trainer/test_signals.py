"""A signal ends a run at a step that has been saved, whatever the run was doing when it came."""

from __future__ import annotations

import os
import signal

import paddle  # noqa: F401  # sets handlers of its own, which listen() is to replace
import pytest

from paddlenlp.checkpoint.manifest import verify
from paddlenlp.parallel import signals
from paddlenlp.trainer.callbacks import TrainerCallback

MOMENTS = ["on_load_data_end", "on_step_begin", "on_optimizer_begin", "on_log", "on_prediction_step", "on_save"]
RUN = {"do_eval": True, "eval_steps": 1, "save_steps": 2, "logging_steps": 1}


@pytest.fixture(autouse=True)
def listening():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    signals.forget()
    signals.listen()
    yield
    signals.forget()
    for number, handler in before.items():
        signal.signal(number, handler)


def sends(number, moment):
    """A callback that sends this process a signal, once, at the first `moment` from the second step on."""

    def send(self, args, state, control, **kwargs):
        if state.global_step >= 1 and not signals.heard():
            os.kill(os.getpid(), number)

    return type("Sends", (TrainerCallback,), {moment: send})


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
def test_the_run_is_saved_and_goes_on_bitwise(tiny, tmp_path, run_hash_of, log_lines, moment, name):
    whole = tiny.trainer(output_dir=str(tmp_path / "whole"), **RUN)
    whole.train()
    with pytest.raises(signals.Agreed, match=f"stopped on {name} at step") as stopped:
        tiny.trainer(callbacks=[sends(getattr(signal, name), moment)], **RUN).train()
    assert stopped.value.number == getattr(signal, name)
    step = {"on_log": 1, "on_prediction_step": 1}.get(moment, 2)
    assert f"at step {step} of 4. The same command goes on from {tiny.folder / f'checkpoint-{step}'}." in str(
        stopped.value
    )
    assert not [line for line in log_lines() if "Interrupted" in line]  # it is said once
    assert verify(tiny.folder / f"checkpoint-{step}") == []
    signals.forget()
    again = tiny.trainer(**RUN)
    again.train()
    assert run_hash_of(again) == run_hash_of(whole)


def test_nothing_is_saved_where_nothing_is_to_be(tiny):
    with pytest.raises(signals.Agreed, match="at step 2 of 4. No checkpoint was saved yet."):
        tiny.trainer(callbacks=[sends(signal.SIGTERM, "on_step_begin")], save_strategy="no").train()
    assert not list(tiny.folder.glob("checkpoint-*"))


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
