"""Shuffled lines: all there, in an order of the seed alone, any order as likely as another."""

from __future__ import annotations

import io
from collections import Counter

import pytest

from paddlenlp.data import line_shuffle
from paddlenlp.data.line_shuffle import shuffle_lines


def shuffled(path, seed, memory=line_shuffle.MEMORY):
    target = io.BytesIO()
    shuffle_lines(path, target, seed, memory)
    return target.getvalue().decode().splitlines()


@pytest.mark.parametrize("memory", [1 << 20, 5000, 400])
def test_every_line_once(tmp_path, memory):
    lines = [f"line {number} {'x' * (number % 17)}" for number in range(2000)]
    (tmp_path / "in").write_text("\n".join(lines))
    found = shuffled(tmp_path / "in", 3, memory)
    assert found != lines and sorted(found) == sorted(lines)
    assert found == shuffled(tmp_path / "in", 3, memory) != shuffled(tmp_path / "in", 4, memory)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_line_larger_than_the_memory(tmp_path):
    (tmp_path / "in").write_text("a" * 5000 + "\nb\nc\n")
    assert sorted(shuffled(tmp_path / "in", 0, 10)) == ["a" * 5000, "b", "c"]


@pytest.mark.parametrize("memory", [1 << 20, 3])
def test_orders_are_equally_likely(tmp_path, monkeypatch, memory):
    monkeypatch.setattr(line_shuffle, "_BUCKETS", 2)
    (tmp_path / "in").write_text("a\nb\nc\n")
    counts = Counter("".join(shuffled(tmp_path / "in", seed, memory)) for seed in range(600))
    assert len(counts) == 6 and min(counts.values()) > 65  # 100 each, within four standard deviations
