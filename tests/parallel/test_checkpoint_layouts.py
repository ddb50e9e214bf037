"""Checkpoints hold the same in every layout, exported weights are the same files, and every layout goes on from any
other's, bit for bit.

All layouts are run by one launch of four processes, the smaller ones by the first of them (`work_checkpoint`).
"""

from __future__ import annotations

import json

import pytest
from ranks import run_ranks
from work_checkpoint import CASES, WORLD

ALL = [(model, layout) for model, layouts in CASES.items() for layout in layouts]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def ranks(folder):
    return run_ranks(WORLD, "tests/parallel/work_checkpoint.py:everything", {"folder": str(folder)})


def weights(folder):
    """Names and content of the tensor files and their indexes."""
    files = {path.name: path.read_bytes() for path in folder.iterdir() if "safetensors" in path.name}
    assert files, folder
    return files


def assert_same(folder, expected):
    found, expected = weights(folder), weights(expected)
    assert sorted(found) == sorted(expected)
    assert [name for name in found if found[name] != expected[name]] == []


def tensors(folder):
    """What the tensor files of a checkpoint hold, however many they are: stem -> the rest of the index, and tensors."""
    from paddlenlp.utils.tensor_files import TensorFiles

    found = {}
    for path in folder.glob("*.safetensors.index.json"):
        stem = path.name.split(".")[0]
        index = json.loads(path.read_text())
        files = TensorFiles(folder, stem)
        names = list(index.pop("weight_map"))
        found[stem] = (
            (index, names),
            {name: (files.dtype(name), files.shape(name), files[name].tobytes()) for name in files},
        )
    assert found, folder
    return found


def assert_same_tensors(folder, expected):
    found, expected = tensors(folder), tensors(expected)
    assert sorted(found) == sorted(expected)
    for stem, (index, content) in found.items():
        assert index == expected[stem][0]
        assert sorted(content) == sorted(expected[stem][1])
        assert [name for name in content if content[name] != expected[stem][1][name]] == []


@pytest.mark.parametrize("model, layout", ALL)
def test_a_checkpoint_of_one_process_comes_back_from_every_layout(ranks, folder, model, layout):
    assert_same_tensors(folder / model / layout / "checkpoint-2", folder / model / "one" / "checkpoint-2")
    manifest = json.loads((folder / model / layout / "checkpoint-2" / "manifest.json").read_text())
    files = sorted(path.name for path in (folder / model / layout / "checkpoint-2").iterdir())
    assert sorted([*manifest["files"], "manifest.json"]) == files


@pytest.mark.parametrize("model, layout", ALL)
def test_every_layout_goes_on_as_one_process_does(ranks, model, layout):
    expected = ranks[0][model]["one"]
    losses = [found[model][layout] for found in ranks if found[model][layout] is not None]
    assert len(losses) >= 2
    assert all(abs(loss - expected) < 1e-6 * expected for loss in losses) or "bfloat16" in model
    assert all(abs(loss - expected) < 2e-3 * expected for loss in losses)


@pytest.mark.parametrize("model, layout", ALL)
@pytest.mark.parametrize("target", ["one", "next"])
def test_a_checkpoint_of_every_layout_comes_back_from_others(ranks, folder, model, layout, target):
    found = folder / model / f"{layout} to {target}" / "checkpoint-3"
    assert_same_tensors(found, folder / model / layout / "checkpoint-3")


@pytest.mark.parametrize("model, layout", ALL)
@pytest.mark.parametrize("form", ["native", "hf"])
def test_saved_weights_are_the_same_files_in_every_layout(ranks, folder, model, layout, form):
    assert_same(folder / model / layout / form, folder / model / "one" / form)
    assert len(list((folder / model / layout / form).glob("*.safetensors"))) > 2


@pytest.mark.parametrize("model, layout", ALL)
def test_weights_in_both_formats_are_read_in_every_layout(ranks, folder, model, layout):
    assert_same(folder / model / layout / "from hf", folder / model / layout / "from native")
    from paddlenlp.utils.tensor_files import TensorFiles

    found, expected = (TensorFiles(folder / model / place) for place in (f"{layout}/from hf", "one/checkpoint-2"))
    assert list(found) == list(expected)
    assert all((found[name] == expected[name]).all() for name in found)


def test_masters_are_saved_in_low_precision_runs(ranks, folder):
    assert "master_weights.safetensors.index.json" in weights(folder / "fused, bfloat16" / "tp2" / "checkpoint-3")
    assert "master_weights.safetensors.index.json" not in weights(folder / "experts" / "tp2" / "checkpoint-3")


@pytest.mark.parametrize("layout", ["tp2", "sharding2 stage3"])
def test_the_best_weights_are_loaded_and_exported(ranks, folder, layout):
    from paddlenlp.utils.tensor_files import TensorFiles

    found, one = TensorFiles(folder / "best" / layout), folder / "fused, bfloat16" / "one"
    best, last = (TensorFiles(one / f"checkpoint-{step}") for step in (2, 3))
    assert list(found) == list(best)
    assert all((found[name] == best[name]).all() for name in best)
    assert any((found[name] != last[name]).any() for name in best)


def test_a_failed_write_fails_on_all_ranks_and_leaves_nothing(ranks):
    for found in (found["writing fails"] for found in ranks[:2]):
        assert "cannot write the checkpoint: [Errno 28] No space left on device" in found["full"]
        assert [name for name in found["left"] if name != ".run.lock"] == []
        assert "a checkpoint needs" in found["small"] and "1,000 are free" in found["small"]
        assert "cannot write the model" in found["export"] and "Not a directory" in found["export"]
        assert found["then"] == "checkpoint-1"


def test_what_one_rank_cannot_read_all_refuse(ranks):
    one, other = (found["reading fails"] for found in ranks[:2])
    assert one == other
    assert "Rank 1 on host" in one["unseen"] and "sees nothing at" in one["unseen"]
    assert "output_dir must be on a file system all machines see" in one["unseen"]
    assert "sees another checkpoint at" in one["other"]
    assert "nowhere" in one["open"]
    assert "1 not part of the model" in one["more"] and "llama.layers.4.mlp.up_proj.weight" in one["more"]
    assert "missing" not in one["more"]
    assert "2 missing" in one["fewer"] and "layers.0.mlp.up_proj" in one["fewer"] and "layers.3.mlp" in one["fewer"]
    assert one["unchanged"]


def test_random_states_serve_the_same_layout_only(ranks, folder):
    one, other = (found["another layout"] for found in ranks[:2])
    assert len(one["warnings"]) == 1 and "1 process" in one["warnings"][0] and "tp 2" in one["warnings"][0]
    assert other["warnings"] == []
    assert one["drawn"] != other["drawn"]
    assert (one["drawn"], other["drawn"]) == (one["again"], other["again"])
    states = json.loads((folder / "rng" / "checkpoint-1" / "rng_state.json").read_text())
    assert len(states) == 2 and states[0] != states[1]
