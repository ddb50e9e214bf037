"""The table of devices, entries of one's own, and how long kernels and exchanges take on them."""

from __future__ import annotations

import json

import pytest

from paddlenlp.parallel.mesh import Mesh
from paddlenlp.planning.hardware import hardware, hardware_names, measured_cpu
from paddlenlp.planning.kernel_times import flash, product, stored_scores
from paddlenlp.planning.layout import Layout
from paddlenlp.planning.wire import Line, collective, lines, neighbour, sent, shown, speed
from paddlenlp.utils.errors import UsageError

WANTED = {"a100-40g", "a100-80g", "a800-80g", "h100-80g", "h800-80g", "h200-141g", "rtx4090-24g"}
A100 = hardware("a100-80g")


def test_the_table():
    assert set(hardware_names()) == WANTED
    for name in WANTED:
        hw = hardware(name)
        assert hw.source and 0.5 < hw.best_product < 1 and hw.peak("bfloat16") > hw.peak("float32")
    assert hardware("a800-80g").link_gb_s < A100.link_gb_s
    assert hardware("h800-80g").link_gb_s < hardware("h100-80g").link_gb_s


def test_the_cpu_is_measured():
    hw = hardware("cpu")
    assert hw is measured_cpu()
    assert hw.peak("float32") > 0 and hw.memory_gb_s > 0 and hw.memory_gib > 0 and hw.source == "measured"


def test_entries_of_ones_own(tmp_path):
    file = tmp_path / "own.json"
    file.write_text(json.dumps({"slow": {"like": "h100-80g", "network_gb_s": 5}, "h100-80g": {"like": "a100-40g"}}))
    slow = hardware("slow", file)
    assert slow.network_gb_s == 5 and slow.memory_gb_s == hardware("h100-80g").memory_gb_s
    assert hardware("h100-80g", file).memory_gib == hardware("a100-40g").memory_gib
    assert hardware("a100-80g", file) == A100


def test_an_entry_for_a_device_nobody_knows(tmp_path):
    file = tmp_path / "own.json"
    entry = {"like": "a100-80g", "name": "X1", "gemm_tflops": 90.0, "tflops": {"bfloat16": 100.0}}
    file.write_text(json.dumps({"x1": entry}))
    hw = hardware("x1", file)
    assert hw.peak("bfloat16") == 100e12 and hw.best_product == 0.9
    with pytest.raises(UsageError, match="X1.*no known peak for float32.*tflops"):
        hw.peak("float32")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"mine": {"memory_gib": 80}}', "mine.*lacks.*memory_gb_s"),
        ('{"mine": {"like": "a100-80g", "flops": 1}}', "mine.*has unknown flops"),
        ('{"mine": {"like": "b1000"}}', "like 'b1000'.*a100-80g"),
        ('["mine"]', "object of entries"),
        ("{", "cannot be read"),
    ],
)
def test_mistakes_in_entries(tmp_path, text, message):
    file = tmp_path / "own.json"
    file.write_text(text)
    with pytest.raises(UsageError, match=message):
        hardware("mine", file)


def test_an_unknown_name():
    with pytest.raises(UsageError, match="'h300' is not known; known: a100-40g.*like"):
        hardware("h300")


@pytest.mark.parametrize("name", sorted(WANTED - {"rtx4090-24g"}))
def test_products_are_anchored_at_the_measured_one(name):
    hw = hardware(name)
    m, n, k = hw.gemm_shape
    assert 2 * m * n * k / product(hw, m, n, k, 2) / 1e12 == pytest.approx(hw.gemm_tflops, rel=0.03)


def test_products():
    """Thin and small ones are slower, by operations; tiny ones take a launch; none is faster than the peak."""

    def rate(m, n, k):
        return 2 * m * n * k / product(A100, m, n, k, 2) / A100.peak("bfloat16")

    assert 0.75 < rate(8192, 8192, 8192) < 1
    assert rate(8192, 8192, 8192) > rate(8192, 8192, 512) > rate(256, 256, 512)
    assert rate(8192, 8192, 8192) > rate(16, 8192, 8192)
    assert product(A100, 1, 1, 1, 2) < 1e-5
    assert product(A100, 4096, 4096, 4096, 4) > 8 * product(A100, 4096, 4096, 4096, 2)


def test_attention():
    """Longer rows run nearer to the peak, the backward pass takes more than twice, stored scores far more."""
    pairs = 32 * 4096 * 4096 / 2
    forward, backward = flash(A100, pairs, 256, 4096)
    assert 2 < backward / forward < 4
    assert 0.4 < 2 * pairs * 256 / forward / A100.peak("bfloat16") < 0.62
    assert flash(A100, pairs, 256, 512)[0] > forward
    assert flash(A100, pairs, 256, 4096, bias_bytes=1e9)[0] > forward
    plain = stored_scores(A100, 2 * pairs, 256, 4096, 2, "plain")
    softmax = stored_scores(A100, 2 * pairs, 256, 4096, 2, "softmax")
    assert plain[0] > softmax[0] > 2 * forward


def test_lines_of_the_mesh():
    """As `Mesh.lines` has them."""
    mesh = Mesh(dp=2, pp=2, sharding=4, tp=2, ep=2)
    found = lines(Layout(mesh))
    axes = {"tp": ("tp",), "pp": ("pp",), "sharding": ("sharding",), "replica": ("dp", "sequence"), "ep": ("ep",)}
    for name, line in {**axes, "expert_sharding": ("ep_replica",), "expert_replica": ("dp", "sequence")}.items():
        ranks = mesh.line(0, *line)
        assert found[name] == Line(len(ranks), ranks[1] - ranks[0]), name


def test_links_and_networks():
    inside, across, wide = Line(8, 1), Line(16, 8), Line(16, 1)
    assert speed(A100, inside) == pytest.approx(A100.link_gb_s * 0.8e9)
    assert speed(A100, across) == pytest.approx(A100.network_gb_s * 0.8e9)
    assert speed(A100, wide) == pytest.approx(8 * A100.network_gb_s * 0.8e9)
    assert sent(inside, 8.0) == 7.0
    assert collective(A100, Line(1, 1), 1e9) == 0
    assert collective(A100, inside, 1e9, 2) == 2 * collective(A100, inside, 1e9)
    assert neighbour(A100, Line(2, 8), 1e9) > 5 * neighbour(A100, Line(2, 1), 1e9)


def test_what_is_hidden_slows_down_what_hides_it():
    assert shown(0.0, 1.0) == 0 and shown(2.0, 0.0) == 2
    assert 0 < shown(1.0, 5.0) < 0.5
    assert shown(3.0, 1.0) > 2
