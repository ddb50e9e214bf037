"""llm/tools/plan.py as a command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from paddlenlp.transformers.known_models import known_names
from paddlenlp.utils.errors import UsageError
from tests.llm.tools.conftest import TOOLS, load

ROOT = Path(__file__).resolve().parents[3]
CONFIG = str(ROOT / "llm/config/llama/pretrain-llama_7b-tp2sd4_stage2.json")
ALL = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "llm/config").glob("*/pretrain*.json"))


@pytest.fixture
def plan(monkeypatch):
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "1")  # restored afterwards
    return load("plan").main


def test_it_fits(plan, capsys, tmp_path):
    json_file, picture = tmp_path / "plan.json", tmp_path / "memory.png"
    plan([CONFIG, "--gpus", "8", "--gpu", "a100-80g", "--json", str(json_file), "--picture", str(picture)])
    out = capsys.readouterr().out
    assert out.startswith("6.74 B parameters on 8 processes = dp 1 x sharding 4 x tp 2")
    assert "Memory fits: needs " in out and "pp rank  weights" in out and "tokens/s a device" in out
    found = json.loads(json_file.read_text())
    assert found["memory"]["fits"] and set(found) == {"layout", "memory", "speed"}
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_it_does_not_fit(plan, capsys):
    with pytest.raises(SystemExit) as end:
        plan([CONFIG, "--gpus", "8", "--gpu", "a100-40g"])
    assert end.value.code == 1
    out = capsys.readouterr().out
    assert "DOES NOT FIT" in out and "nearest layouts that fit" in out and "\n1  --" in out


def test_flags_of_the_run_count(plan, capsys):
    plan([CONFIG, "--gpus", "8", "--recompute", "true", "--recompute_granularity", "full"])
    assert "layer inputs" in capsys.readouterr().out


def test_many_nodes(plan, capsys):
    words = ["--nodes", "1250", "--model_name_or_path", "meta-llama/Llama-2-70b", "--tensor_parallel_degree", "8"]
    more = ["--sharding_parallel_degree", "1250", "--max_seq_length", "4096", "--recompute", "true"]
    plan([CONFIG, "--gpus", "8", *words, *more])
    assert "10000 processes" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, said",
    [
        (["--gpus", "0"], "at least one device"),
        (["--gpus", "8", "--gpu", "abacus"], "not known; known: a100-40g"),
        (["--gpus", "8", "--tensor_parallel_degree", "3"], "tensor_parallel_degree"),
        (["--gpus", "8", "--learning_rte", "1"], "did you mean"),
        (["--gpus", "7"], "7"),
    ],
)
def test_what_is_wrong_is_said(plan, words, said):
    with pytest.raises(UsageError) as error:
        plan([CONFIG, *words])
    assert said in str(error.value)


@pytest.mark.parametrize("path", ALL)
def test_every_configuration_can_be_planned(plan, path):
    given = json.loads((ROOT / path).read_text())
    devices = 1
    for name in ("tensor_parallel_degree", "pipeline_parallel_degree", "sharding_parallel_degree"):
        devices *= max(1, given.get(name, 1))
    shape = [] if given["model_name_or_path"] in known_names() else ["--config_name", "meta-llama/Llama-2-7b"]
    try:
        plan([str(ROOT / path), "--gpus", str(devices), "--gpu", "h200-141g", *shape])
    except SystemExit as end:
        assert end.code == 1, path


def test_exit_code_of_the_command():
    words = [sys.executable, str(TOOLS / "plan.py"), CONFIG, "--gpus", "8", "--gpu", "rtx4090-24g"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 1 and "DOES NOT FIT" in done.stdout
    done = subprocess.run([*words[:2], "nothing.json"], capture_output=True, text=True)
    assert done.returncode == 2 and "does not exist" in done.stderr and not done.stdout
