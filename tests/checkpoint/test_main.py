"""The command line over checkpoints: verify, list, convert."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from paddlenlp.checkpoint.__main__ import main
from paddlenlp.checkpoint.folder import set_aside
from paddlenlp.checkpoint.writing import save_checkpoint
from paddlenlp.transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from paddlenlp.transformers.conversion_utils import StoredWeights

ROOT = Path(__file__).resolve().parents[2]
SIZES = dict(vocab_size=48, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4)
STATES = {"trainer_state.json": {"global_step": 1}, "rng_state.json": [{"mesh": "2 processes = dp 1 x tp 2"}]}


def save(output_dir, step, dtype="float32", masters=False):
    """A checkpoint of a tiny model."""
    model = LlamaForCausalLM.from_config(LlamaConfig(**SIZES), dtype)
    weights = dict(model.named_parameters())
    moments = {f"{name}/moment1_0": np.zeros(tuple(param.shape), np.float32) for name, param in weights.items()}
    wide = {name: np.full(tuple(param.shape), 1.5, np.float32) for name, param in weights.items()} if masters else {}
    groups = {"model": weights, "master_weights": wide, "optimizer": moments}
    return save_checkpoint(output_dir, step, groups, STATES, model.config.save_pretrained)


def flip(path, place=-3):
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(bytes(content))


@pytest.fixture()
def output_dir(tmp_path):
    for step in (5, 10):
        save(tmp_path / "run", step)
    return tmp_path / "run"


def test_verify_says_whole_or_which_file_and_why(output_dir, capsys):
    assert main(["verify", str(output_dir)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{output_dir / 'checkpoint-5'}: whole",
        f"{output_dir / 'checkpoint-10'}: whole",
    ]
    damaged = output_dir / "checkpoint-10"
    flip(damaged / "optimizer-00001-of-00001.safetensors")
    assert main(["verify", str(damaged)]) == main(["verify", str(output_dir)]) == 1
    out = capsys.readouterr().out
    assert "checkpoint-5: whole" in out and "checkpoint-10: damaged" in out
    assert "  - optimizer-00001-of-00001.safetensors does not have the content that was written (SHA-256 diff" in out
    (damaged / "manifest.json").unlink()
    assert main(["verify", str(damaged)]) == 1
    assert "manifest.json is missing" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "zero"])
def test_every_damage_to_every_file_is_found(output_dir, capsys, damage):
    folder = output_dir / "checkpoint-10"
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        if damage == "flip":
            flip(path, len(content) // 2)
        elif damage == "delete":
            path.unlink()
        else:
            path.write_bytes(content[: len(content) // 2] if damage == "truncate" else bytes(len(content)))
        assert main(["verify", str(folder)]) == 1, path
        assert f"  - {path.name} " in capsys.readouterr().out
        path.write_bytes(content)
    assert main(["verify", str(folder)]) == 0


def test_files_that_do_not_fit_each_other_are_damage(output_dir, capsys):
    """The manifest alone would not tell: it agrees with them."""
    from paddlenlp.checkpoint.manifest import write_manifest

    folder = output_dir / "checkpoint-10"
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["absent"] = "model-00001-of-00001.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "manifest.json").unlink()
    write_manifest(folder, 10, {})
    assert main(["verify", str(folder)]) == 1
    assert "do not hold: absent" in capsys.readouterr().out


def test_wrong_folders(tmp_path, capsys):
    assert main(["verify", str(tmp_path / "absent")]) == main(["list", str(tmp_path / "absent")]) == 2
    assert capsys.readouterr().err.count("no such folder") == 2
    assert main(["verify", str(tmp_path)]) == 2
    assert "no checkpoints here" in capsys.readouterr().err
    assert main(["list", str(tmp_path)]) == 0
    assert "no checkpoints" in capsys.readouterr().out


def test_list(output_dir, capsys):
    save(output_dir, 100, "bfloat16", masters=True)
    flip(output_dir / "checkpoint-5" / "model-00001-of-00001.safetensors")
    with open(output_dir / "checkpoint-10" / "model-00001-of-00001.safetensors", "ab") as file:
        file.write(b"more")
    set_aside(output_dir / "checkpoint-10", ["damage"])
    os.utime(output_dir / "checkpoint-100" / "manifest.json", (0, 0))
    assert main(["list", str(output_dir)]) == 0
    quick = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    rows = [[cell.strip() for cell in line if cell.strip()] for line in quick[:4]]
    assert rows[0] == ["step", "size", "state", "written", "layout", "content", "folder"]
    assert [(row[0], row[2], row[-1]) for row in rows[1:]] == [
        ("5", "sizes agree", "checkpoint-5"),
        ("10", "set aside", "checkpoint-10.rejected"),
        ("100", "sizes agree", "checkpoint-100"),
    ]
    assert rows[3][3].startswith(("1969", "1970")) and rows[3][4] == "2 processes = dp 1 x tp 2"
    assert rows[1][5] == "model optimizer" and rows[3][5] == "model optimizer master_weights"
    size = sum(path.stat().st_size for path in (output_dir / "checkpoint-5").iterdir())
    assert rows[1][1] == f"{size / 1000:.1f} kB"
    assert main(["list", "--verify", str(output_dir)]) == 0
    out = capsys.readouterr().out
    assert [line.split()[3] for line in out.splitlines()[1:4]] == ["damaged", "set", "whole"]
    assert "checkpoint-5: model-00001-of-00001.safetensors does not have the content" in out


def test_convert_there_and_back(output_dir, tmp_path, capsys):
    source = output_dir / "checkpoint-10"
    before = {path: path.read_bytes() for path in source.iterdir()}
    assert main(["convert", str(source), str(tmp_path / "hf"), "--to", "hf", "--max_shard_size", "4KB"]) == 0
    assert f"{tmp_path / 'hf'}: 21 tensors, 23.9 kB, format hf" in capsys.readouterr().out
    assert len(list((tmp_path / "hf").glob("*.safetensors"))) > 3
    assert main(["convert", str(tmp_path / "hf"), str(tmp_path / "back"), "--to", "native"]) == 0
    first, last = StoredWeights(source), StoredWeights(tmp_path / "back")
    assert set(first) == set(last) and all(first[name].tobytes() == last[name].tobytes() for name in first)
    assert {path: path.read_bytes() for path in source.iterdir()} == before
    AutoModelForCausalLM.from_pretrained(tmp_path / "hf")


def test_convert_types(tmp_path):
    source = save(tmp_path, 1, "bfloat16", masters=True)
    assert main(["convert", str(source), str(tmp_path / "wide"), "--to", "native", "--dtype", "float32"]) == 0
    wide = StoredWeights(tmp_path / "wide")
    assert wide.stored_dtype() == "float32" and all((wide[name] == 1.5).all() for name in wide)
    assert main(["convert", str(source), str(tmp_path / "as stored"), "--to", "native"]) == 0
    assert StoredWeights(tmp_path / "as stored").stored_dtype() == "bfloat16"


def test_convert_refuses_what_is_damaged_where_it_reads(tmp_path, capsys):
    source = save(tmp_path, 1, "bfloat16", masters=True)
    flip(source / "optimizer-00001-of-00001.safetensors")
    flip(source / "master_weights-00001-of-00001.safetensors")
    assert main(["convert", str(source), str(tmp_path / "a"), "--to", "hf"]) == 0
    assert main(["convert", str(source), str(tmp_path / "b"), "--to", "hf", "--dtype", "float32"]) == 2
    assert "master_weights-00001-of-00001.safetensors does not have the content" in capsys.readouterr().err
    flip(source / "model-00001-of-00001.safetensors")
    assert main(["convert", str(source), str(tmp_path / "c"), "--to", "hf"]) == 2
    assert "model-00001-of-00001.safetensors does not" in capsys.readouterr().err
    assert main(["convert", str(source), str(tmp_path / "c"), "--to", "hf", "--no_verify"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["a", "c", "checkpoint-1"]


def test_as_a_program_without_paddle_where_it_needs_none(output_dir):
    code = (
        "import runpy, sys; sys.argv = ['x', 'verify', sys.argv[1]]\n"
        "try: runpy.run_module('paddlenlp.checkpoint', run_name='__main__')\n"
        "except SystemExit as end: print(end.code, 'paddle' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(output_dir)], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["0 False"], done.stderr
