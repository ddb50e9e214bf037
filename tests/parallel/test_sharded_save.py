"""All ranks write a checkpoint together: who writes which file, parts as they are, small blocks, failures of one rank,
and saves beside the training. Four processes, one launch (`work_sharded_save`)."""

from __future__ import annotations

import json

import pytest
from ranks import run_ranks
from test_checkpoint_layouts import assert_same_tensors, tensors
from work_sharded_save import APART, FILED

from paddlenlp.checkpoint.manifest import verify


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sharded")


@pytest.fixture(scope="module")
def ranks(folder):
    return run_ranks(4, "tests/parallel/work_sharded_save.py:everything", {"folder": str(folder)})


COUNTS = {
    "tp2pp2": (4, 4),
    "tp2 sharding2 stage1": (2, 4),
    "sharding2 stage3": (1, 2),
    "dp4": (1, 1),
    "pp2 sharding2 stage3": (2, 4),
}
"""Layout -> files of weights (tp x pp), and of each of optimizer states and master weights (times sharding)."""


@pytest.mark.parametrize("layout", FILED)
def test_files_are_as_many_as_the_reference_has_and_written_by_as_many_ranks(ranks, folder, layout):
    models, states = COUNTS[layout]
    saved = folder / "files" / layout / "checkpoint-1"
    assert verify(saved) == []
    found = {stem: sorted(path.name for path in saved.glob(f"{stem}-*.safetensors")) for stem in ("model", "optimizer")}
    assert found["model"] == [f"model-{n:05d}-of-{models:05d}.safetensors" for n in range(1, models + 1)]
    assert found["optimizer"] == [f"optimizer-{n:05d}-of-{states:05d}.safetensors" for n in range(1, states + 1)]
    assert len(list(saved.glob(f"master_weights-*-of-{states:05d}.safetensors"))) == states
    written = [rank["files"][layout] or [] for rank in ranks]
    assert sum(map(len, written)) == models + 2 * states
    assert sum(map(bool, written)) == states
    weights = json.loads((saved / "model.safetensors.index.json").read_text())["weight_map"]
    assert sorted(set(weights.values())) == found["model"]


@pytest.mark.parametrize("layout", APART)
def test_parts_as_they_are_hold_the_same_and_come_back(ranks, folder, layout):
    apart, joined, back = (folder / "apart" / layout / f"checkpoint-{number}" for number in (1, 2, 3))
    assert verify(apart) == []
    index = json.loads((apart / "optimizer.safetensors.index.json").read_text())
    assert "weight_map" not in index and not (apart / "master_weights.safetensors.index.json").exists()
    files = sorted(path.name for path in apart.glob("*.safetensors") if not path.name.startswith("model"))
    assert sorted(index["files"]) == files
    assert index["master_weights"] == any(name.startswith("master_weights.") for name in files)
    suffixes = {
        "tp2pp2": [f".tp{tp:02d}_pp{pp:02d}" for tp in (0, 1) for pp in (0, 1)],
        "tp2 sharding2 stage1": [f".tp{tp:02d}_shard{shard:02d}" for tp in (0, 1) for shard in (0, 1)],
        "sharding2 stage3": [".shard00", ".shard01"],
        "dp4": [""],
        "ep2": [".moe00", ".moe01"],
    }
    assert [name for name in files if name.startswith("opt")] == [
        f"optimizer{suffix}.safetensors" for suffix in suffixes[layout]
    ]
    assert not list(apart.glob("optimizer-*"))
    assert_same_tensors(back, joined)


def test_blocks_of_any_size_give_the_same_files(ranks, folder):
    one, many = (folder / "small" / f"checkpoint-{number}" for number in (1, 2))
    assert max(rank["small blocks"] for rank in ranks) <= 256
    for path in one.glob("*.safetensors*"):
        assert path.read_bytes() == (many / path.name).read_bytes()


def test_a_rank_that_cannot_write_fails_the_save_on_all(ranks):
    for found in (rank["second fails"] for rank in ranks[:2]):
        assert "rank 1 on host" in found["error"] and "cannot write the checkpoint: [Errno 28]" in found["error"]
        assert "-of-00002.safetensors" in found["error"]
        assert "It needs 4," in found["error"] and "bytes are free" in found["error"]
        assert found["left"] == []
        assert found["then"].endswith("checkpoint-1") and found["heard"] == ["checkpoint-1"]


def test_training_goes_on_while_a_checkpoint_is_written(ranks, folder):
    for found in (rank["beside"] for rank in ranks):
        assert found["at once"] is None and found["holds"]
        assert found["looked"] == ["None", False, None]
        assert found["heard"] == ["checkpoint-1"]
        last = f"checkpoint-{found['last']}"
        assert found["again"] is None and found["then"] == [last, None, last, [last]]
        assert found["same"]
        output = folder / "beside"
        assert_same_tensors(output / f"checkpoint-{found['last'] + 1}", output / last)
        assert tensors(output / last) != tensors(output / "checkpoint-1")


def test_a_save_beside_the_training_that_fails_is_told_at_a_step_of_all(ranks):
    for found in (rank["beside fails"] for rank in ranks[:2]):
        assert found["at once"] is None
        assert "rank 1 on host" in found["error"] and "No space left on device" in found["error"]
        assert all(".partial" in name for name in found["left"])  # of the next save, if it has come so far
        assert found["then"] == "checkpoint-1"


def test_or_training_goes_on_without_it(ranks):
    for found in (rank["beside fails, goes on"] for rank in ranks[:2]):
        assert found["finished"] is None and found["last"] is None
        assert "save_failure_policy is continue" in found["warnings"][0]
        assert found["then"] == "checkpoint-1"
