"""The memory of a plan as text, as values and as a picture."""

from __future__ import annotations

import builtins
import json
import re

import pytest

from paddlenlp.parallel.mesh import Mesh
from paddlenlp.planning import report
from paddlenlp.planning.layout import Layout
from paddlenlp.planning.memory import GIB, KINDS, fullest, plan_memory
from paddlenlp.planning.nearest import Near
from paddlenlp.planning.picture import draw_memory
from paddlenlp.transformers import AutoConfig
from paddlenlp.utils.errors import UsageError


@pytest.fixture(scope="module")
def ranks():
    config = AutoConfig.from_pretrained("facebook/llama-7b")
    return plan_memory(config, Layout(Mesh(pp=4), accumulation=4, seq_length=2048))


def test_table_sums_up(ranks):
    head, *rows = report.memory_table(ranks).splitlines()
    assert len(rows) == 4 and head.startswith("pp rank  weights  grads")
    for row, rank in zip(rows, ranks):
        assert row.split()[-1] == report.gib(rank.needed)
        shown = [float(cell) for cell in row.split()[1:-3]]
        assert sum(shown) == pytest.approx(rank.peak.total / GIB, abs=0.3)


def test_ranks_that_are_alike_are_one_row(ranks):
    rows = report.memory_table([ranks[1]._replace(place=ranks[at].place) for at in range(3)]).splitlines()[1:]
    assert len(rows) == 1 and rows[0].startswith("0-2 ")


def test_bars_reach_as_far_as_the_device(ranks):
    worst = fullest(ranks)
    full = report.bars([worst], worst.needed).splitlines()[0]
    assert full.index("|") == 8 + report.WIDTH and full[full.index("|") - 1] != " " and full.endswith("|")
    half = report.bars([worst], 2 * worst.needed).splitlines()[0]
    assert half[8:].rstrip("|").rstrip() and len(half[8:-1].rstrip()) == pytest.approx(report.WIDTH / 2, abs=1)
    over = report.bars([worst], worst.needed / 4).splitlines()[0]
    assert over.endswith(">") and len(over) == 8 + report.WIDTH + 1 + report.BEYOND + 1
    colored = report.bars([worst], worst.needed, colored=True).splitlines()[0]
    assert re.sub(r"\033\[\d+m", "", colored) == full != colored


def test_verdict(ranks):
    worst = fullest(ranks)
    assert report.verdict(ranks, worst.needed).startswith("fits: needs ")
    told = report.verdict(ranks, worst.needed * 0.99)
    assert told.startswith("DOES NOT FIT: ") and f"pipeline rank {worst.place.pp}" in told and worst.peak.when in told


def test_parts_and_moments(ranks):
    last = report.parts_table(ranks[0]).splitlines()[-1]
    assert last.split() == ["all", report.gib(sum(ranks[0].activations.values()))]
    assert [line.rsplit("  ", 1)[0].rstrip() for line in report.moments_table(ranks[0]).splitlines()[1:]] == [
        moment.when for moment in ranks[0].timeline
    ]


def test_nearest(ranks):
    near = [Near(Layout(), ("recompute full",), "--recompute true", 3.5 * GIB, 1.5)]
    rows = report.near_table(near, 1.0).splitlines()
    assert rows[1].split()[-2:] == ["3.50", "+50%"] and rows[-1] == "1  --recompute true"
    assert "takes more" not in rows[0] and "more devices" in report.near_table([], 1.0)


def test_values(ranks):
    values = json.loads(json.dumps(report.as_values(ranks, 80 * GIB)))
    assert values["fits"] is True and len(values["ranks"]) == 4 and values["nearest"] == []
    assert set(values["ranks"][0]["bytes_at_peak"]) == set(KINDS)
    assert values["peak_bytes"] == max(rank["peak_bytes"] for rank in values["ranks"])
    assert max(moment["bytes"] for moment in values["ranks"][0]["moments"]) == values["ranks"][0]["peak_bytes"]


def test_picture(ranks, tmp_path):
    draw_memory(ranks, 80 * GIB, "a plan", tmp_path / "memory.png")
    assert (tmp_path / "memory.png").read_bytes().startswith(b"\x89PNG") and len(list(tmp_path.iterdir())) == 1


def test_picture_without_matplotlib(ranks, tmp_path, monkeypatch):
    real = builtins.__import__

    def refuse(name, *rest, **more):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UsageError, match="pip install matplotlib"):
        draw_memory(ranks, 80 * GIB, "a plan", tmp_path / "memory.png")
