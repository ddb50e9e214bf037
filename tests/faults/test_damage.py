"""Damaged checkpoints are noticed and passed over: the short form of benchmarks/faults/damage.py."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks/faults"))

import damage  # noqa: E402
import jobs  # noqa: E402

CASES = [
    ("model-00001-of-00001.safetensors", damage.flip),
    ("optimizer-00001-of-00001.safetensors", damage.truncate),
    ("master_weights.safetensors.index.json", damage.delete),
    ("manifest.json", damage.zero),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The place of a run that is over, its folder and its outcome."""
    folder = tmp_path_factory.mktemp("damage")
    place = jobs.Place(folder, max_steps=damage.STEPS, save_steps=damage.SAVE_STEPS, **damage.LOW_PRECISION)
    return (place, *damage.finished(place))


def test_the_newest_checkpoint_has_every_kind_of_file(finished):
    _, base, expected = finished
    names = damage.files_of(base / damage.NEWEST)
    assert {name for name, _ in CASES} < set(names)
    assert {"trainer_state.json", "scheduler.json", "scaler.json", "rng_state.json", "config.json"} < set(names)
    assert set(expected["tensors"]) == {"model", "optimizer", "master_weights"}


def test_every_damage_of_every_file_is_noticed(finished):
    _, base, _ = finished
    files = len(damage.files_of(base / damage.NEWEST))
    assert damage.check_only(base, rounds=3) == 3 * 4 * files


@pytest.mark.parametrize("name, kind", CASES, ids=[kind.__name__ for _, kind in CASES])
def test_the_run_goes_on_from_the_one_before(finished, name, kind):
    place, base, expected = finished
    damage.case(place, base, expected, name, kind)


def test_a_damage_that_nobody_notices_is_trouble(finished, monkeypatch):
    _, base, _ = finished
    monkeypatch.setattr(damage, "verify", lambda folder: [])
    with pytest.raises(jobs.Trouble, match="seed 0: found"):
        damage.check_only(base, rounds=1)


@pytest.mark.parametrize("kind", damage.DAMAGES, ids=lambda kind: kind.__name__)
def test_each_damage_changes_the_file(tmp_path, kind):
    path = tmp_path / "file"
    for seed in range(20):
        path.write_bytes(b"content")
        kind(path, random.Random(seed))
        assert not path.exists() or path.read_bytes() != b"content"
