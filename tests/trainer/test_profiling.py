"""profile_steps: the steps that are profiled, the trace, the table, and that nothing of it can stop a run."""

from __future__ import annotations

import json

import pytest

from paddlenlp.nn import kernels
from paddlenlp.trainer import profiling
from paddlenlp.trainer.argparser import PdArgumentParser
from paddlenlp.trainer.callbacks import TrainerCallback
from paddlenlp.trainer.pretraining_args import PreTrainingArguments
from paddlenlp.trainer.profiling import ProfileCallback, Row, table, top_operations
from paddlenlp.utils.errors import UsageError

BASE = {"output_dir": "out", "do_train": True, "max_steps": 9}


def traces(folder):
    return sorted(path.name for path in (folder / "profile").glob("*"))


def test_a_run_writes_a_trace_and_logs_a_table(tiny, log_lines, run_hash_of):
    trainer = tiny.trainer(profile_steps=[2, 3], save_strategy="no")
    before = dict(kernels._chosen)
    trainer.train()
    assert traces(tiny.folder) == ["steps_2_to_3_rank0.json"]
    events = json.loads((tiny.folder / "profile/steps_2_to_3_rank0.json").read_text())["traceEvents"]
    rows = {row.name: row for row in top_operations(events)}
    norms, parameters = 5, len(list(trainer.model.parameters()))
    assert rows["rms_norm"].calls == 2 * norms
    assert rows["head_loss"].calls == 2
    assert rows["adamw"].calls == 2 * parameters
    assert "matmul" in rows and all(row.time >= 0 for row in rows.values())
    (line,) = [line for line in log_lines() if line.startswith("Profile of steps 2 to 3: ")]
    assert str(tiny.folder / "profile") in line and "calls   total ms   share\n" in line
    assert kernels._chosen == before


def test_profiling_changes_nothing_in_the_results(tiny, tmp_path, run_hash_of):
    plain = tiny.trainer(save_strategy="no")
    plain.train()
    profiled = tiny.trainer(save_strategy="no", profile_steps=[1, 4], output_dir=str(tmp_path / "profiled"))
    profiled.train()
    assert run_hash_of(plain) == run_hash_of(profiled)


def test_without_it_there_is_no_callback(tiny):
    assert not any(isinstance(made, ProfileCallback) for made in tiny.trainer().callback_handler.callbacks)


class StopAt(TrainerCallback):
    """Ends the run after a step."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop |= state.global_step == self.step


def test_a_run_that_ends_early_or_resumes_within_writes_the_steps_it_made(tiny):
    tiny.trainer(profile_steps=[2, 4], callbacks=[StopAt(3)]).train()
    assert traces(tiny.folder) == ["steps_2_to_3_rank0.json"]
    tiny.trainer(profile_steps=[2, 4]).train()
    assert traces(tiny.folder) == ["steps_2_to_3_rank0.json", "steps_4_to_4_rank0.json"]


def test_only_a_rank_that_logs_profiles(tiny, monkeypatch):
    trainer = tiny.trainer(profile_steps=[1, 2], save_strategy="no")
    monkeypatch.setattr(type(trainer.args), "should_log", property(lambda self: False))
    trainer.train()
    assert traces(tiny.folder) == []


@pytest.mark.parametrize("where", ["_start", "_finish"])
def test_a_profiler_that_fails_does_not_stop_training(tiny, log_lines, monkeypatch, where):
    before = dict(kernels._chosen)

    def fail(*args):
        raise OSError("no space left")

    monkeypatch.setattr(ProfileCallback, where, fail)
    trainer = tiny.trainer(profile_steps=[2, 3], save_strategy="no")
    trainer.train()
    assert trainer.state.global_step == 4
    assert len([line for line in log_lines() if line.startswith("Profiling failed and is off")]) == 1
    assert {name: kernel.__name__ for name, kernel in kernels._chosen.items()} == {
        name: kernel.__name__ for name, kernel in before.items()
    }


@pytest.mark.parametrize("steps", [[3], [1, 2, 3], [0, 2], [4, 3], [2, 10], []])
def test_what_names_no_steps_of_the_run_is_refused(steps):
    with pytest.raises(UsageError, match="must be the first and the last step to profile"):
        PdArgumentParser(PreTrainingArguments).parse_dict({**BASE, "profile_steps": steps})


@pytest.mark.parametrize("words", [["3,5"], ["3", "5"], ["[3, 5]"]])
def test_ways_to_write_it(words):
    line = [*(f"--{name}={value}" for name, value in BASE.items()), "--profile_steps", *words]
    (made,) = PdArgumentParser(PreTrainingArguments).parse(line, check_files=False)
    assert made.profile_steps == [3, 5]


def event(name, start, duration, thread="1(C++)", kind="Operator"):
    return {"ph": "X", "name": f"{name}[{duration} us]", "ts": start, "dur": duration, "tid": thread, "cat": kind}


def test_time_counts_where_it_is_spent():
    """Layers of one operation are one; what runs inside another counts there; threads are apart."""
    events = [
        event("ProfileStep#0", 0, 100, "1(Python)"),
        event("rms_norm", 10, 50, "1(Python)"),
        event("matmul pybind_imperative_func", 20, 30),
        event("matmul dygraph", 21, 28),
        event("matmul kernel launch", 22, 20),
        event("matmul dygraph", 70, 5),
        event("matmul dygraph", 20, 7, "2(C++)"),
        event("Global_ReluGradNode", 80, 10),
        event("relu_grad infer_meta", 80.5, 0.5),
        event("relu_grad kernel launch", 81, 3.5),
        {"ph": "M", "name": "process_name"},
    ]
    assert top_operations(events) == [
        Row("matmul", 3, 42.0), Row("rms_norm", 1, 20.0), Row("ReluGradNode", 1, 6.0), Row("relu_grad", 1, 4.0),
    ]  # fmt: skip


def test_on_a_device_its_own_operations_count():
    events = [
        event("matmul dygraph", 0, 9),
        event("gemm", 0, 3, "stream", "Kernel"),
        event("gemm", 5, 4, "stream", "Kernel"),
    ]
    assert top_operations(events) == [Row("gemm", 2, 7.0)]


def test_the_table_sums_up_what_it_does_not_show(monkeypatch):
    monkeypatch.setattr(profiling, "ROWS", 1)
    lines = table([Row("a", 2, 3000.0), Row("b", 1, 600.0), Row("c", 1, 400.0)]).splitlines()
    assert [line.split() for line in lines] == [
        ["operation", "calls", "total", "ms", "share"],
        ["a", "2", "3.00", "75.0%"],
        ["2", "others", "2", "1.00", "25.0%"],
    ]
    assert len(table([]).splitlines()) == 1
