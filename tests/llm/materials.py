"""What a tiny run of run_pretrain.py needs: a model's configuration, a tokenizer, a dataset, arguments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, Sequence

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers

from paddlenlp.data import MMapIndexedDatasetBuilder

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


def write_materials(top: Path) -> None:
    """Folders model, tokenizer and data: 60 documents that count upwards, so that a model can learn them."""
    (top / "model").mkdir()
    (top / "model/config.json").write_text(json.dumps(SHAPE))
    write_tokenizer(top / "tokenizer", VOCAB)
    write_data(top / "data")


def write_data(folder: Path, end: Sequence[int] = ()) -> None:
    """Documents that count upwards, and close with `end`."""
    folder.mkdir()
    random = np.random.default_rng(0)
    with MMapIndexedDatasetBuilder(str(folder / "corpus"), np.uint16) as builder:
        for _ in range(60):
            start, length = random.integers(0, VOCAB), random.integers(20, 80)
            builder.add_item(np.concatenate([(start + np.arange(length)) % (VOCAB - 3) + 3, list(end)]))
            builder.end_document()
        builder.finalize()


def write_tokenizer(folder: Path, size: int) -> None:
    """A tokenizer of `size` words: three special tokens, then w3, w4 ..."""
    folder.mkdir(parents=True)
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, **{f"w{i}": i for i in range(3, size)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    roles = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(roles))


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
