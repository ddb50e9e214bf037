"""Saves beside the training of one process; jobs of several are in tests/parallel/test_sharded_save.py."""

from __future__ import annotations

import errno
import os
import threading

import pytest

from paddlenlp.checkpoint.manifest import verify
from paddlenlp.trainer import TrainerCallback
from paddlenlp.trainer.saving import Saver
from paddlenlp.utils import tensor_writer
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.log import logger

BESIDE = [{"use_async_save": True}, {"unified_checkpoint_config": "async_save"}]


class Heard(TrainerCallback):
    """Notes the checkpoints that are whole when it hears of them, and the steps at which it does."""

    def __init__(self):
        self.saved, self.steps = [], []

    def on_save(self, args, state, control, checkpoint=None, **kwargs):
        assert verify(checkpoint) == []
        self.saved.append(checkpoint.name)
        self.steps.append(state.global_step)


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def threads(monkeypatch):
    """The names of the threads in which checkpoints were written."""
    names, write = [], Saver._write
    monkeypatch.setattr(
        Saver, "_write", lambda self, *rest: names.append(threading.current_thread().name) or write(self, *rest)
    )
    return names


@pytest.mark.parametrize("beside", BESIDE, ids=str)
def test_the_same_checkpoints_as_while_training_waits(tiny, tmp_path, threads, beside):
    plain = Heard()
    tiny.trainer(callbacks=[plain]).train()
    assert threads == ["MainThread"] * 2
    expected, tiny.folder = tiny.folder, tmp_path / "beside"
    heard = Heard()
    tiny.trainer(callbacks=[heard], **beside).train()
    assert threads[2:] == ["checkpoint"] * 2
    assert heard.saved == plain.saved == ["checkpoint-2", "checkpoint-4"]
    for name in heard.saved:
        for path in (expected / name).glob("*.safetensors*"):
            assert path.read_bytes() == (tiny.folder / name / path.name).read_bytes(), path.name


def test_the_log_says_so_when_it_is_there(tiny, monkeypatch):
    lines = []
    monkeypatch.setattr(logger, "info", lambda text, *rest: lines.append(text))
    tiny.trainer(use_async_save=True, save_steps=4).train()
    (line,) = [line for line in lines if "Saved checkpoint" in line]
    assert line.startswith(f"Saved checkpoint {tiny.folder}/checkpoint-4 in ") and line.endswith(" beside the training")


class Held:
    """A save that goes on when it is let."""

    def __init__(self, monkeypatch):
        self.event, write = threading.Event(), Saver._write
        monkeypatch.setattr(Saver, "_write", lambda saver, *rest: self.event.wait(60) and write(saver, *rest))


def test_training_does_not_wait_and_callbacks_hear_at_a_step(tiny, monkeypatch):
    held, heard = Held(monkeypatch), Heard()

    class LetGo(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 4:
                assert not (tiny.folder / "checkpoint-2").exists()
                held.event.set()

    tiny.trainer(callbacks=[heard, LetGo], use_async_save=True, max_steps=6, save_steps=2, save_total_limit=1).train()
    assert heard.saved == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]
    assert heard.steps[0] == 4
    assert [path.name for path in tiny.folder.glob("checkpoint-*")] == ["checkpoint-6"]


def test_a_run_that_fails_waits_for_what_is_under_way(tiny, monkeypatch):
    held = Held(monkeypatch)

    class Fails(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 3:
                threading.Timer(0.1, held.event.set).start()
                raise UsageError("no more")

    with pytest.raises(UsageError, match="no more"):
        tiny.trainer(callbacks=[Fails], use_async_save=True).train()
    assert verify(tiny.folder / "checkpoint-2") == []


def fail(monkeypatch, times):
    """The first writes to tensor files fail."""
    write, left = tensor_writer._write, [times]

    def full(file, data, digest):
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(file, data, digest)

    monkeypatch.setattr(tensor_writer, "_write", full)


def test_a_failure_stops_the_run(tiny, monkeypatch):
    fail(monkeypatch, 1)
    with pytest.raises(UsageError, match=r"checkpoint-2: cannot write the checkpoint: .*No space left.*needs [\d,]+ b"):
        tiny.trainer(use_async_save=True).train()
    assert not list(tiny.folder.glob("*checkpoint-*"))


def test_or_it_goes_on_without_that_checkpoint(tiny, monkeypatch):
    fail(monkeypatch, 1)
    warnings = []
    monkeypatch.setattr(logger, "warning", warnings.append)
    heard = Heard()
    tiny.trainer(callbacks=[heard], use_async_save=True, save_failure_policy="continue").train()
    assert heard.saved == ["checkpoint-4"]
    assert "checkpoint-2: cannot write" in warnings[0] and "save_failure_policy is continue" in warnings[0]


def test_what_is_read_back_must_be_what_was_written(tiny, monkeypatch):
    write = tensor_writer._write

    def flip(file, data, digest):
        written = bytearray(data)
        if len(written) > 1000:
            written[500] ^= 1
        digest.update(data)
        write(file, memoryview(written), None)

    monkeypatch.setattr(tensor_writer, "_write", flip)
    with pytest.raises(UsageError, match="what is read back is not what was written: '.*-00001-of-00001.safetensors'"):
        tiny.trainer().train()
    assert not list(tiny.folder.glob("*checkpoint-*"))


def test_one_process_saves_its_parts_as_they_are(tiny, run_hash_of):
    words = {"unified_checkpoint_config": "ignore_merge_optimizer", "bf16": True, "fp16_opt_level": "O2"}
    whole = tiny.trainer(**words)
    whole.train()
    saved = tiny.folder / "checkpoint-2"
    names = {path.name for path in saved.glob("*.safetensors*")}
    assert names == {
        "model-00001-of-00001.safetensors",
        "model.safetensors.index.json",
        "optimizer.safetensors",
        "optimizer.safetensors.index.json",
        "master_weights.safetensors",
    }
    again = tiny.trainer(**words)
    again.train(resume_from_checkpoint=saved)
    assert run_hash_of(again) == run_hash_of(whole)
