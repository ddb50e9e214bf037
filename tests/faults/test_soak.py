"""Many steps with faults among them: the short form of benchmarks/faults/soak.py."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks/faults"))

import soak  # noqa: E402


def test_runs_with_faults_equal_one_without(tmp_path):
    found = soak.campaign(tmp_path, steps=200)
    assert found["starts"] == 2  # a bad step and a kill
    for name in ("survived", "restarted"):
        assert found[name]["different"] == [] and found[name]["bad_steps"], name
    assert found["survived"]["steps_computed"] == 200
    assert 200 <= found["restarted"]["steps_computed"] <= 200 + soak.SAVE_STEPS + 1


def test_what_grows_is_not_flat():
    flat = [soak.Sample(step, 100.0 + step % 2, 10, 5) for step in range(60)]
    assert soak.flatness(flat)["flat"]
    for name in ("megabytes", "descriptors", "threads"):
        grown = [sample._replace(**{name: getattr(sample, name) + sample.step // 10}) for sample in flat]
        assert not soak.flatness(grown)["flat"], name


def test_every_kind_of_fault_has_its_turn():
    for kinds in (soak.SURVIVED, soak.ENDING):
        faults = soak.schedule(3000, kinds)
        assert len(faults) == 30 and {fault.kind for fault in faults} == set(kinds)
    bad = [soak.steps_of(soak.schedule(3000, kinds), "bad step") for kinds in (soak.SURVIVED, soak.ENDING)]
    assert bad[0] == bad[1]  # so that both are equal to one run
