"""The run record and the choice of the device."""

from __future__ import annotations

import json
import platform
import sys

import pytest

from paddlenlp import __version__
from paddlenlp.trainer import device
from paddlenlp.trainer.argparser import PdArgumentParser
from paddlenlp.trainer.pretraining_args import DataArguments, ModelArguments, PreTrainingArguments
from paddlenlp.trainer.run_record import versions, write_run_record
from paddlenlp.utils.errors import UsageError

CLASSES = (ModelArguments, DataArguments, PreTrainingArguments)
WORDS = ["--output_dir=out", "--input_dir=data", "--do_train", "--max_steps=3", "--evaluation_strategy=steps"]


def test_record(tmp_path, monkeypatch):
    parser = PdArgumentParser(CLASSES)
    argv = [*WORDS, "--wandb_api_key", "hush", "--wandb_api_key=hush2"]
    made = parser.parse(argv, check_files=False)
    monkeypatch.setattr(sys, "argv", ["run_pretrain.py", *argv])
    write_run_record(tmp_path / "run.json", parser, made, {"note": "more"})
    text = (tmp_path / "run.json").read_text(encoding="utf-8")
    record = json.loads(text)
    assert record["arguments"]["max_steps"] == {"value": 3, "origin": "command line"}
    assert record["arguments"]["evaluation_strategy"] == {"value": "steps", "origin": "command line"}
    assert record["arguments"]["learning_rate"] == {"value": 5e-5, "origin": "default"}
    assert set(record["arguments"]) == set(parser.fields)
    assert record["note"] == "more"
    assert record["command"][:2] == ["run_pretrain.py", "--output_dir=out"]
    assert "hush" not in text


def test_versions():
    found = versions()
    assert (found["python"], found["paddlenlp"]) == (platform.python_version(), __version__)
    assert found["numpy"][0].isdigit()


@pytest.mark.parametrize(
    ("given", "origins", "gpus", "expected"),
    [
        ({"device": "cpu"}, {}, 1, "cpu"),
        ({"no_cuda": True}, {}, 1, "cpu"),
        ({}, {}, 1, "gpu"),
        ({}, {}, 0, "cpu"),
        ({"device": "gpu:1"}, {"device": "c.json:3"}, 2, "gpu:1"),
    ],
)
def test_device(monkeypatch, given, origins, gpus, expected):
    monkeypatch.setattr(device, "_gpus", lambda: (gpus, "none here"))
    assert device.resolve_device(PreTrainingArguments("out", **given), origins) == expected


@pytest.mark.parametrize(("asked", "gpus", "expected"), [("gpu", 0, "none here"), ("gpu:1", 1, "there are 1 GPUs")])
def test_a_device_that_was_asked_for_and_is_not_there(monkeypatch, asked, gpus, expected):
    monkeypatch.setattr(device, "_gpus", lambda: (gpus, "none here"))
    with pytest.raises(UsageError, match=f'c.json:3: device "{asked}" cannot be used: {expected}'):
        device.resolve_device(PreTrainingArguments("out", device=asked), {"device": "c.json:3"})
