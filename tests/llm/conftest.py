"""A tiny model, tokenizer and dataset on disk, and run_pretrain.py as a user starts it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Dict

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from paddlenlp.data import MMapIndexedDatasetBuilder

ROOT = Path(__file__).resolve().parent.parent.parent
VOCAB = 256
SHAPE = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


@pytest.fixture(scope="session")
def materials(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders model, tokenizer and data: 60 documents that count upwards, so that a model can learn them."""
    top = tmp_path_factory.mktemp("materials")
    (top / "model").mkdir()
    (top / "model/config.json").write_text(json.dumps(SHAPE))
    write_tokenizer(top / "tokenizer", VOCAB)
    (top / "data").mkdir()
    random = np.random.default_rng(0)
    with MMapIndexedDatasetBuilder(str(top / "data/corpus"), np.uint16) as builder:
        for _ in range(60):
            start, length = random.integers(0, VOCAB), random.integers(20, 80)
            builder.add_item((start + np.arange(length)) % (VOCAB - 3) + 3)
            builder.end_document()
        builder.finalize()
    return top


def write_tokenizer(folder: Path, size: int) -> None:
    """A tokenizer of `size` words: three special tokens, then w3, w4 ..."""
    folder.mkdir(parents=True)
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, **{f"w{i}": i for i in range(3, size)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    roles = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(roles))


@pytest.fixture
def retokenize(files: Path) -> Callable[[int], None]:
    """retokenize(size): put a tokenizer of `size` words in the place of the usual one."""

    def replace(size: int) -> None:
        shutil.rmtree(files / "tokenizer")
        write_tokenizer(files / "tokenizer", size)

    return replace


@pytest.fixture
def files(materials: Path, tmp_path: Path) -> Path:
    """A copy of the materials that the test may damage."""
    return Path(shutil.copytree(materials, tmp_path / "files"))


@pytest.fixture
def pretrain(files: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """pretrain(name=value, ...): run_pretrain.py on a JSON file with these arguments over the usual ones."""

    def run(**changes: Any) -> subprocess.CompletedProcess[str]:
        config: Dict[str, Any] = {
            "model_name_or_path": str(files / "model"),
            "tokenizer_name_or_path": str(files / "tokenizer"),
            "input_dir": str(files / "data"),
            "output_dir": str(tmp_path / "out"),
            "split": "8,1,1",
            "max_seq_length": 16,
            "per_device_train_batch_size": 4,
            "per_device_eval_batch_size": 4,
            "learning_rate": 0.01,
            "max_steps": 6,
            "logging_steps": 1,
            "eval_steps": 3,
            "save_steps": 3,
            "eval_iters": 1,
            "test_iters": 1,
            "device": "cpu",
            "do_train": True,
            "do_eval": True,
            "do_predict": True,
            "report_to": "none",
            "disable_tqdm": True,
        }
        path = tmp_path / "config.json"
        path.write_text(json.dumps({**config, **changes}, indent=1))
        command = [sys.executable, str(ROOT / "llm/run_pretrain.py"), str(path)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    return run
