"""Every Python block of the README and of docs/ runs, page by page, on a small model and dataset of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import List

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PYTHON = re.compile(r"^```python\n(.*?)^```", re.S | re.M)
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
WITH_EXAMPLES = [page for page in PAGES if PYTHON.search(page.read_text(encoding="utf-8"))]
TWINS = [page for page in WITH_EXAMPLES if page.with_name(f"{page.stem}_zh.md").exists()]
SMALL = {"vocab_size": 8192, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
RUN = {
    "model_name_or_path": "shape",
    "tokenizer_name_or_path": "data/tiny/tokenizer",
    "input_dir": "data/tiny/dataset",
    "output_dir": "checkpoints/tiny",
    "split": "8,1,1",
    "max_seq_length": 16,
    "max_steps": 2,
    "save_steps": 1,
    "logging_steps": 1,
    "per_device_train_batch_size": 1,
    "do_train": True,
    "device": "cpu",
    "report_to": ["none"],
}


def examples(page: Path) -> List[str]:
    """The Python blocks of a page."""
    return PYTHON.findall(page.read_text(encoding="utf-8"))


def run(folder: Path, *words: str) -> None:
    environment = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    done = subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{words[-1]}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what `make pretrain` leaves in data/tiny and checkpoints/tiny, only smaller."""
    top = tmp_path_factory.mktemp("examples")
    tools, corpus = ROOT / "llm/tools", str(ROOT / "llm/corpus")
    few = ("--input_path", corpus, "--max_doc_num", "40")
    run(top, f"{tools}/train_tokenizer.py", *few, "--vocab_size", "600", "--output_dir", "data/tiny/tokenizer")
    made = ("--tokenizer_name_or_path", "data/tiny/tokenizer", "--output_prefix", "data/tiny/dataset/corpus")
    run(top, f"{tools}/create_pretraining_data.py", *few, *made, "--workers", "1", "--append_eos")
    (top / "shape").mkdir()
    shape = {"model_type": "llama", **SMALL, "num_attention_heads": 2, "max_position_embeddings": 64}
    (top / "shape/config.json").write_text(json.dumps(shape), encoding="utf-8")
    (top / "run.json").write_text(json.dumps(RUN), encoding="utf-8")
    run(top, str(ROOT / "llm/run_pretrain.py"), "run.json")
    return top


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=lambda page: page.name)
def test_python_blocks_run(page: Path, folder: Path) -> None:
    script = folder / f"page_{page.stem}.py"
    script.write_text("\n".join(examples(page)), encoding="utf-8")
    run(folder, str(script))


@pytest.mark.parametrize("page", TWINS, ids=lambda page: page.name)
def test_twin_has_the_same_python(page: Path) -> None:
    def code(path: Path) -> List[str]:
        return [re.sub(r"\s*#.*", "", block) for block in examples(path)]

    assert code(page) == code(page.with_name(f"{page.stem}_zh.md"))
