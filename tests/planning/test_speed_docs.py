"""docs/planning_measured.md and its Chinese twin are what the planner says."""

from __future__ import annotations

from pathlib import Path

import pytest

from paddlenlp.planning.hardware import hardware_names
from paddlenlp.planning.published import groups, published
from paddlenlp.planning.speed_docs import DOCS, document

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def pages():
    return {name: document(language) for name, language in DOCS.items()}


@pytest.mark.parametrize("name", DOCS)
def test_the_documentation_is_up_to_date(name, pages):
    written = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert written == pages[name], "run: python -m paddlenlp.planning.speed_docs"


@pytest.mark.parametrize("name", DOCS)
def test_everything_is_in_it(name, pages):
    text = pages[name]
    assert all(f"| {run.name} |" in text for run in published())
    assert all(shared["source"] in text for shared in groups().values())
    assert all(f"| `{device}` |" in text for device in hardware_names())


def test_both_pages_have_the_same_figures(pages):
    english, chinese = (
        [line.split("|")[1:8] for line in text.splitlines() if line.startswith(("| GPT", "| facebook", "| Meta"))]
        for text in pages.values()
    )
    assert english == chinese and len(english) > 20
