"""A tiny model, tokenizer and dataset on disk, and run_pretrain.py as a user starts it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from paddlenlp.data import MMapIndexedDatasetBuilder

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "parallel"))

from launcher import Launch, hosts, started
from ranks import ROOT

__all__ = ["hosts", "started"]

SCRIPT = str(ROOT / "llm/run_pretrain.py")
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


def arguments(materials: Path, out: Path, **changes: Any) -> Dict[str, Any]:
    """What a file of arguments says, for six steps on this machine's CPU."""
    return {
        "model_name_or_path": str(materials / "model"),
        "tokenizer_name_or_path": str(materials / "tokenizer"),
        "input_dir": str(materials / "data"),
        "output_dir": str(out),
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
        **changes,
    }


@pytest.fixture
def argument_file(files: Path, tmp_path: Path) -> Callable[..., Path]:
    """argument_file(**changes): `arguments` in a file."""

    def write(**changes: Any) -> Path:
        path = tmp_path / "config.json"
        path.write_text(json.dumps(arguments(files, tmp_path / "out", **changes), indent=1))
        return path

    return write


@pytest.fixture
def pretrain(argument_file: Callable[..., Path]) -> Callable[..., subprocess.CompletedProcess]:
    """pretrain(**changes): run_pretrain.py on these arguments, as a process of its own."""

    def write_and_run(environment: Optional[Dict[str, str]] = None, **changes: Any) -> subprocess.CompletedProcess:
        return run(argument_file(**changes), environment)

    return write_and_run


def run(config: Path, environment: Optional[Dict[str, str]] = None) -> subprocess.CompletedProcess:
    """run_pretrain.py on a file of arguments, as a process of its own."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
    return subprocess.run(
        [sys.executable, SCRIPT, str(config)], cwd=config.parent, env=env, capture_output=True, text=True
    )


@pytest.fixture(scope="session")
def run_once(
    materials: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Tuple[subprocess.CompletedProcess, Path]]:
    """run_once(**changes): a run that succeeds, for several tests to look at, and the folder where it wrote."""

    def write_and_run(**changes: Any) -> Tuple[subprocess.CompletedProcess, Path]:
        folder = tmp_path_factory.mktemp("once")
        files = shutil.copytree(materials, folder / "files")
        (folder / "config.json").write_text(json.dumps(arguments(files, folder / "out", **changes)))
        done = run(folder / "config.json")
        assert done.returncode == 0, done.stderr
        return done, folder / "out"

    return write_and_run


@pytest.fixture
def launch(argument_file: Callable[..., Path], tmp_path: Path, started: List[Launch]) -> Callable[..., Launch]:
    """launch(processes, **changes): run_pretrain.py by Paddle's launcher, under way in the folder tmp_path / name."""

    def start(
        processes: int, name: str = "job", options: Sequence[str] = (), prefix: Sequence[str] = (), **changes: Any
    ) -> Launch:
        options = options or ["--nproc_per_node", str(processes)]
        started.append(Launch(tmp_path / name, [SCRIPT, str(argument_file(**changes))], options, prefix))
        return started[-1]

    return start
