"""docs/arguments.md and its Chinese twin are what the argument classes say; the shipped argument files parse."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from paddlenlp.trainer.argparser import PdArgumentParser
from paddlenlp.trainer.argument_docs import DOCS, document
from paddlenlp.trainer.fields import GROUPS
from paddlenlp.trainer.pretraining_args import DataArguments, ModelArguments, PreTrainingArguments
from paddlenlp.utils.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]
CLASSES = (ModelArguments, DataArguments, PreTrainingArguments)
CONFIGS = sorted((ROOT / "llm/config").glob("*/pretrain_argument*.json"))


@pytest.mark.parametrize("name", DOCS)
def test_the_documentation_is_up_to_date(name):
    written = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert written == document(DOCS[name]), "run: python -m paddlenlp.trainer.argument_docs"


@pytest.mark.parametrize("language", DOCS.values())
def test_every_argument_and_group_is_documented(language):
    text = document(language)
    assert all(f"| `{name}`" in text for name in PdArgumentParser(CLASSES).fields)
    assert all(f"\n## {titles[language]}\n" in text for titles in GROUPS.values())
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert {line.count("|") for line in rows} == {6, 4}  # arguments, option words


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_shipped_argument_files_hold_only_known_arguments_of_the_right_type(path, monkeypatch):
    """Started alone, a file for several processes says how many it needs; started so, it parses."""
    try:
        PdArgumentParser(CLASSES).parse([str(path)], check_files=False)
    except UsageError as error:
        (line,) = str(error).splitlines()[1:-1]
        processes = re.search(r"and this is one process; .* --nproc_per_node (\d+) ", line).group(1)
        monkeypatch.setenv("PADDLE_TRAINERS_NUM", processes)
        PdArgumentParser(CLASSES).parse([str(path)], check_files=False)


def test_the_tiny_configuration_is_one_process_and_points_at_a_shape():
    config = json.loads((ROOT / "llm/config/llama/pretrain_argument_tiny.json").read_text(encoding="utf-8"))
    shape = json.loads((ROOT / config["model_name_or_path"] / "config.json").read_text(encoding="utf-8"))
    assert shape["model_type"] == "llama"
    assert config["max_seq_length"] <= shape["max_position_embeddings"]
