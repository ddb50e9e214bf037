"""Sinks of log records, and that none of them can stop training."""

from __future__ import annotations

import errno
import io
import json
import sys
import threading
import types

import pytest

from paddlenlp.trainer import TrainerControl, TrainerState, loggers
from paddlenlp.trainer.loggers import Background, SinkCallback, cut_history, default_sinks, json_record, tagged


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_metrics_file_holds_every_record(tiny):
    trainer = tiny.trainer(do_eval=True, eval_steps=2)
    trainer.train()
    trainer.evaluate()
    written = lines_of(tiny.folder / "metrics.jsonl")
    assert written == trainer.state.log_history
    assert list(written[0])[:3] == ["loss", "learning_rate", "global_step"]
    assert [line["global_step"] for line in written] == [1, 2, 2, 3, 4, 4, 4, 4]


def test_metrics_file_of_a_resumed_run_tells_one_history(tiny):
    tiny.trainer(max_steps=2).train()
    lost = tiny.folder / "metrics.jsonl"
    with open(lost, "a") as file:
        file.write('{"loss": 9.0, "global_step": 3}\n{"loss": 9.0, "glo')
    tiny.trainer(max_steps=4).train()
    losses = [line for line in lines_of(lost) if "loss" in line]
    assert [line["global_step"] for line in losses] == [1, 2, 3, 4] and all(line["loss"] < 9 for line in losses)


def test_evaluation_alone_keeps_the_metrics_file(tiny):
    tiny.trainer().train()
    before = lines_of(tiny.folder / "metrics.jsonl")
    tiny.trainer().evaluate()
    after = lines_of(tiny.folder / "metrics.jsonl")
    assert after[:-1] == before and "eval_loss" in after[-1]


def test_a_run_that_starts_anew_empties_the_metrics_file(tiny):
    tiny.trainer().train()
    tiny.trainer(overwrite_output_dir=True, max_steps=2).train()
    assert [line["global_step"] for line in lines_of(tiny.folder / "metrics.jsonl") if "loss" in line] == [1, 2]


def test_cut_history_of_a_missing_file(tmp_path):
    cut_history(tmp_path / "none", 3)
    assert not (tmp_path / "none").exists()


def test_records_are_strict_json():
    assert json_record({"loss": float("nan"), "ppl": float("inf"), "n": 1}, 7) == (
        '{"loss": null, "ppl": null, "n": 1, "global_step": 7}'
    )


def test_metrics_output_path(tiny, tmp_path):
    trainer = tiny.trainer(metrics_output_path=str(tmp_path / "deep/er"), save_strategy="no")
    trainer.train()
    assert lines_of(tmp_path / "deep/er/metrics_rank0.json") == trainer.state.log_history


def test_names_on_dashboards():
    logs = {"loss": 1, "eval_loss": 2.0, "test_ppl": 3.0, "train_loss": 4.0, "note": "text", "flag": True}
    assert tagged(logs) == [("train/loss", 1.0), ("eval/loss", 2.0), ("test/ppl", 3.0), ("train/train_loss", 4.0)]


def test_visualdl_scalars_can_be_read_back(tiny):
    from visualdl import LogReader

    trainer = tiny.trainer(report_to=["visualdl"], do_eval=True, eval_steps=2, logging_dir=str(tiny.folder / "vdl"))
    trainer.train()
    trainer.evaluate()
    files = list((tiny.folder / "vdl").glob("vdlrecords*"))
    assert len(files) == 1
    scalars = LogReader(file_path=str(files[0])).get_data("scalar", "train/loss")
    logged = [r["loss"] for r in trainer.state.log_history if "loss" in r]
    assert [s.id for s in scalars] == [1, 2, 3, 4] and [s.value for s in scalars] == pytest.approx(logged, rel=1e-6)
    assert len(LogReader(file_path=str(files[0])).get_data("scalar", "eval/loss")) == 3


def test_visualdl_is_the_default_in_a_folder_under_output_dir(tiny):
    tiny.trainer(report_to=None, save_strategy="no", max_steps=1).train()
    assert len(list((tiny.folder / "runs").glob("*/vdlrecords*"))) == 1


class FakeWriter:
    def __init__(self, *args, **kwargs):
        self.made_with, self.scalars, self.flushed = (args, kwargs), [], 0

    def add_scalar(self, *args):
        self.scalars.append(args)

    def flush(self):
        self.flushed += 1


def test_tensorboard(tiny, monkeypatch):
    made = []
    module = types.ModuleType("tensorboardX")
    module.SummaryWriter = lambda *args: made.append(FakeWriter(*args)) or made[-1]
    monkeypatch.setitem(sys.modules, "tensorboardX", module)
    tiny.trainer(report_to=["tensorboard"], logging_dir="somewhere", save_strategy="no", max_steps=1).train()
    assert made[0].made_with[0] == ("somewhere",) and made[0].flushed
    assert [s[0] for s in made[0].scalars][:2] == ["train/loss", "train/learning_rate"]
    assert all(s[2] == 1 for s in made[0].scalars)


def test_wandb(tiny, monkeypatch):
    sent, keys, asked = [], [], {}
    module = types.ModuleType("wandb")
    module.login = lambda key: keys.append(key)
    module.init = lambda **kw: asked.update(kw) or types.SimpleNamespace(log=sent.append)
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setenv("WANDB_HTTP_PROXY", "")
    changes = dict(run_name="mine", wandb_api_key="secret", wandb_http_proxy="http://proxy")
    tiny.trainer(report_to=["wandb"], save_strategy="no", max_steps=1, **changes).train()
    import os

    assert keys == ["secret"] and asked["name"] == "mine" and os.environ["WANDB_HTTP_PROXY"] == "http://proxy"
    assert sent[0]["train/global_step"] == 1 and sent[0]["train/loss"] > 0


def test_a_dashboard_that_is_not_installed_is_reported_once(tiny, monkeypatch, log_lines):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert tiny.trainer(report_to=["wandb"], save_strategy="no").train().global_step == 4
    assert sum("Logging to wandb failed" in line for line in log_lines()) == 1


class RaisingSink:
    def __init__(self, after=0):
        self.after, self.calls = after, 0

    def write(self, logs, step):
        self.calls += 1
        if self.calls > self.after:
            raise OSError("disk full")

    def flush(self):
        pass


@pytest.mark.parametrize("wrap", [lambda sink: sink, Background])
def test_a_sink_that_raises_is_dropped_and_training_goes_on(tiny, log_lines, wrap):
    sink = RaisingSink(after=1)
    trainer = tiny.trainer(save_strategy="no", callbacks=[SinkCallback("mine", lambda args: wrap(sink))])
    assert trainer.train().global_step == 4
    warnings = [line for line in log_lines() if "Logging to mine failed" in line]
    assert len(warnings) == 1 and "disk full" in warnings[0]
    assert sink.calls == 2


def test_a_sink_that_hangs_does_not_hold_up_training(tiny, log_lines, monkeypatch):
    released, left = threading.Event(), []

    class Hanging:
        def write(self, logs, step):
            left.append(released.wait(600))

        def flush(self):
            pass

    monkeypatch.setattr(Background, "FLUSH_SECONDS", 0.1)
    trainer = tiny.trainer(save_strategy="no", callbacks=[SinkCallback("mine", lambda args: Background(Hanging()))])
    assert trainer.train().global_step == 4
    assert left == []  # it still hangs: nobody has waited for it
    released.set()
    assert any("Logging to mine failed" in line and "did not take" in line for line in log_lines())


def test_a_sink_that_does_not_keep_up_is_dropped(tiny, log_lines, monkeypatch):
    released = threading.Event()

    class Slow:
        def write(self, logs, step):
            released.wait(600)

        def flush(self):
            pass

    monkeypatch.setattr(Background, "CAPACITY", 1)
    trainer = tiny.trainer(save_strategy="no", callbacks=[SinkCallback("mine", lambda args: Background(Slow()))])
    assert trainer.train().global_step == 4
    released.set()
    assert any("Logging to mine failed" in line and "Full" in line for line in log_lines())


def test_folders_that_cannot_be_written_do_not_stop_training(tiny, tmp_path, log_lines):
    blocker = tmp_path / "file"
    blocker.write_text("")
    paths = dict(logging_dir=str(blocker / "vdl"), metrics_output_path=str(blocker / "metrics"))
    assert tiny.trainer(report_to=["visualdl"], save_strategy="no", **paths).train().global_step == 4
    text = "\n".join(log_lines())
    assert "Logging to visualdl failed" in text and "metrics_output_path can't be written" in text


def test_a_metrics_file_that_cannot_be_written_does_not_stop_training(tiny, log_lines):
    (tiny.folder / "metrics.jsonl").mkdir(parents=True)
    assert tiny.trainer(save_strategy="no").train().global_step == 4
    assert sum("metrics.jsonl can't be written" in line for line in log_lines()) == 1


def test_records_that_a_full_disk_refuses_are_written_when_it_has_room(tiny, log_lines, monkeypatch):
    """The file can be opened at steps 1 and 4, takes seven bytes at step 2 and nothing at step 3."""
    room = {2: 7, 3: 0}

    class Full(io.FileIO):
        def write(self, data):
            left = room.get(trainer.state.global_step)
            if left == 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            if left is None:
                return super().write(data)
            room[trainer.state.global_step] -= left
            return super().write(data[:left])

    monkeypatch.setattr(loggers, "open", lambda path, mode, buffering: Full(path, mode), raising=False)
    trainer = tiny.trainer(save_strategy="no")
    trainer.train()
    assert lines_of(tiny.folder / "metrics.jsonl") == trainer.state.log_history
    said = [line for line in log_lines() if "metrics.jsonl" in line]
    assert len(said) == 2 and "can't be written" in said[0] and "has all records" in said[1]


def test_a_history_that_cannot_be_cut_now_is_cut_later(tmp_path, monkeypatch):
    path, cut = tmp_path / "metrics.jsonl", loggers.cut_history
    path.write_text('{"global_step": 1}\n{"global_step": 2}\n')
    lines = loggers.JsonLines(path)

    def fail(path, step):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(loggers, "cut_history", fail)
    for action in (lambda: lines.cut(1), lambda: lines.write({"loss": 5.0}, 2), lambda: lines.cut(1)):
        with pytest.raises(OSError):
            action()
    monkeypatch.setattr(loggers, "cut_history", cut)
    lines.write({"loss": 7.0}, 2)
    assert lines_of(path) == [{"global_step": 1}, {"loss": 7.0, "global_step": 2}]


def test_records_outside_of_training_are_written_at_once(tiny):
    class Counting:
        flushed = 0

        def write(self, logs, step):
            pass

        def flush(self):
            self.flushed += 1

    sink, args = Counting(), tiny.args()
    callback = SinkCallback("mine", lambda args: sink)
    callback.on_log(args, TrainerState(), TrainerControl(), logs={})
    assert sink.flushed == 1
    callback.on_train_begin(args, TrainerState(), TrainerControl())
    callback.on_log(args, TrainerState(), TrainerControl(), logs={})
    assert sink.flushed == 1
    callback.on_close(args, TrainerState(), TrainerControl())
    assert sink.flushed == 2


def test_which_sinks(tiny):
    names = lambda **changes: [sink.name for sink in default_sinks(tiny.args(**changes))]  # noqa: E731
    assert names(report_to=None) == ["metrics.jsonl", "visualdl"]
    assert names(report_to=["none"]) == ["metrics.jsonl"]
    assert names(report_to=["all"]) == ["metrics.jsonl", *loggers.DASHBOARDS]
    assert names(report_to=["none"], metrics_output_path="x") == ["metrics.jsonl", "metrics_output_path"]
