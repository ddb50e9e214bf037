"""docs/reliability.md says what the results say."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks/faults"))

import checks  # noqa: E402
import results  # noqa: E402


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    return tmp_path


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_pages_are_up_to_date(language):
    page = results.PAGES[language].read_text(encoding="utf-8")
    assert results.filled(page, language) == page, "run python benchmarks/faults/results.py"


def test_both_pages_have_the_same_cells():
    names = [
        [found["name"] for found in results.CELL.finditer(page.read_text(encoding="utf-8"))]
        for page in results.PAGES.values()
    ]
    assert names[0] == names[1] and len(set(names[0])) == len(names[0]) > 10


def test_every_result_is_in_the_pages_and_has_passed():
    cells = {found["name"] for found in results.CELL.finditer(results.PAGES["en"].read_text(encoding="utf-8"))}
    for path in results.RESULTS.glob("*.json"):
        found = json.loads(path.read_text(encoding="utf-8"))
        if "measured" in found:  # the others are what scripts keep beside their result
            assert path.stem in cells and found["passed"], path.name


def test_a_cell_is_filled_from_its_result(folder, capsys):
    page = "| a | <!-- measured: kill --> old text |\n| b | <!-- measured: other --> |\n"
    path = results.write("kill", True, {"kills": 3}, "3 of 3", "3 次")
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found["kills"] == 3 and json.loads(capsys.readouterr().out) == found
    filled = results.filled(page, "en")
    assert filled == (
        f"| a | <!-- measured: kill --> 3 of 3 ({found['date']}) |\n| b | <!-- measured: other --> not measured yet |\n"
    )
    assert results.filled(filled, "en") == filled
    assert "3 次" in results.filled(page, "zh")


def test_a_sentence_that_would_break_the_table_is_refused(folder):
    with pytest.raises(ValueError, match="kill: a sentence"):
        results.write("kill", True, {}, "a | b", "c")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_what_the_pages_name_is_there(language):
    page = results.PAGES[language].read_text(encoding="utf-8")
    named = set(re.findall(r"(?:tests|benchmarks|llm)/[\w/]+\.py", page))
    assert len(named) > 15 and [name for name in sorted(named) if not (results.ROOT / name).exists()] == []


def test_what_is_checked_by_tests_alone_is_in_the_pages():
    page = results.PAGES["en"].read_text(encoding="utf-8")
    for name, check in checks.CHECKS.items():
        row = next(line for line in page.splitlines() if f"<!-- measured: {name} -->" in line)
        assert all(test in row for test in check.tests), name
