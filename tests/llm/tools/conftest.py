"""Tools as functions, and a small tokenizer."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[3] / "llm" / "tools"


def load(name):
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def train_tokenizer():
    return load("train_tokenizer").main


@pytest.fixture(scope="session")
def create_pretraining_data():
    return load("create_pretraining_data").main


@pytest.fixture(scope="session")
def texts():
    words = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dogs", "and", "cats", "in", "1984"]
    return [" ".join(words[(i * j) % len(words)] for j in range(1, 30)) + f" 学而时习之 {i}." for i in range(700)]


@pytest.fixture(scope="session")
def corpus(texts, tmp_path_factory):
    """A folder with a.jsonl (600 documents) and b.txt (100)."""
    folder = tmp_path_factory.mktemp("corpus")
    lines = [json.dumps({"text": text, "content": text[:9]}) for text in texts[:600]]
    (folder / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / "b.txt").write_text("\n\n".join(texts[600:]), encoding="utf-8")
    (folder / "LICENSE").touch()
    return folder


@pytest.fixture(scope="session")
def tokenizer_dir(train_tokenizer, corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    assert train_tokenizer(["--input_path", str(corpus), "--vocab_size", "340", "--output_dir", str(folder)]) == 0
    return folder
