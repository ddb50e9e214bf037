"""run_pretrain.py beside modules of external_ops that are right, damaged or wrong: the losses are the plain path's."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "nn"))

import fake_external  # noqa: E402

from paddlenlp.nn.kernels import FLAGS  # noqa: E402

BARE = {"do_eval": False, "do_predict": False, "save_strategy": "no"}


@pytest.fixture
def beside(tmp_path, pretrain):
    """beside(fused_ln=source, ..., flags): a run that finds these modules; a module that is not given is not there."""

    def run(sources, **changes):
        folder = tmp_path / "modules"
        folder.mkdir(exist_ok=True)
        for name in fake_external.MODULES:
            (folder / f"{name}.py").write_text(sources.get(name, "raise ImportError('not here')\n"))
        return pretrain({"PYTHONPATH": str(folder)}, **BARE, **changes)

    return run


def losses(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines if "loss" in json.loads(line)]


def test_losses_are_those_of_the_plain_path(beside, tmp_path):
    right = {"fused_ln": fake_external.FUSED_LN, "fused_layers": fake_external.FUSED_LAYERS}
    garbage = {"fused_ln": f"import ctypes\nctypes.CDLL({str(tmp_path / 'x.so')!r})\n"}
    wrong = {"fused_ln": fake_external.FUSED_LN.replace("epsilon), None]", "epsilon) * 1.5, None]")}
    (tmp_path / "x.so").write_bytes(b"\x7fELF not really" * 99)
    off = {flag: False for flag in FLAGS}
    runs = {
        "plain": beside({}, output_dir=str(tmp_path / "plain"), **off),
        "right": beside(right, output_dir=str(tmp_path / "right")),
        "garbage": beside(garbage, output_dir=str(tmp_path / "garbage")),
        "wrong": beside({**right, **wrong}, output_dir=str(tmp_path / "wrong")),
    }
    for name, done in runs.items():
        assert done.returncode == 0, done.stderr
        np.testing.assert_allclose(losses(tmp_path / name), losses(tmp_path / "plain"), rtol=1e-5, err_msg=name)
    assert "fused one" not in runs["plain"].stderr
    assert "Fused operations, checked against the plain ones: rms_norm of fused_ln" in runs["right"].stderr
    assert "because fused_ln can't be used: it raises OSError" in runs["garbage"].stderr
    assert "because fused_ln's failed its self-check: its result differs by 5e-01" in runs["wrong"].stderr


def test_a_run_that_requires_what_is_not_there_is_refused_before_data_is_read(beside, tmp_path, files):
    before = sorted(path.name for path in (files / "data").rglob("*"))
    done = beside({}, use_fused_rms_norm="require")
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "error: use_fused_rms_norm is require, but there is no fused rms_norm here: fused_ln can't" in done.stderr
    assert sorted(path.name for path in (files / "data").rglob("*")) == before
