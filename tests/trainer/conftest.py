"""A training run that takes a fraction of a second: a LLaMA of 7,000 parameters on random tokens."""

from __future__ import annotations

import hashlib
import logging

import numpy as np
import pytest

VOCAB, LENGTH = 64, 16


class Tokens:
    """`size` samples; remembers the order in which they were read."""

    def __init__(self, size: int, seed: int = 0) -> None:
        self.samples = np.random.RandomState(seed).randint(0, VOCAB, (size, LENGTH + 1)).astype(np.int64)
        self.read = []

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int):
        self.read.append(index)
        return {"text": self.samples[index]}


class TinyRun:
    """Makes arguments, models and trainers with output in one folder."""

    def __init__(self, folder) -> None:
        self.folder = folder
        self.dropout = 0.1
        self.tokens = Tokens

    def args(self, **changes):
        from paddlenlp.trainer import PreTrainingArguments

        values = dict(
            output_dir=str(self.folder),
            do_train=True,
            max_steps=4,
            per_device_train_batch_size=2,
            per_device_eval_batch_size=2,
            eval_iters=2,
            test_iters=3,
            logging_steps=1,
            save_steps=2,
            learning_rate=1e-2,
            weight_decay=0.1,
            min_learning_rate=1e-3,
            device="cpu",
            report_to=["none"],
            disable_tqdm=True,
        )
        return PreTrainingArguments(**{**values, **changes})

    def model(self, args, **changes):
        from paddlenlp.nn import configure_run
        from paddlenlp.transformers import LlamaConfig, LlamaForCausalLM

        configure_run(args)
        sizes = dict(
            vocab_size=VOCAB,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=64,
            attention_dropout=self.dropout,
        )
        return LlamaForCausalLM.from_config(LlamaConfig(**{**sizes, **changes}), dtype=args.dtype)

    def trainer(
        self,
        model=None,
        data=None,
        valid=None,
        callbacks=None,
        tokenizer=None,
        extra=(),
        optimizers=(None, None),
        **changes,
    ):
        from paddlenlp.data import collate_causal_lm
        from paddlenlp.trainer import Trainer

        args = self.args(**changes)
        return Trainer(
            model=self.model(args) if model is None else model,
            args=args,
            data_collator=collate_causal_lm,
            train_dataset=Tokens(64) if data is None else data,
            eval_dataset=Tokens(40, seed=1) if valid is None else valid,
            tokenizer=tokenizer,
            callbacks=callbacks,
            optimizers=optimizers,
            extra_checkpoint_files=extra,
        )


def tensor_hash(tensors) -> str:
    """SHA-256 over names and bits."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]
        value = value.astype("float32") if "bfloat16" in str(value.dtype) or "float16" in str(value.dtype) else value
        digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()


def run_hash(trainer) -> dict:
    """Hashes of the weights and of everything the optimizer holds, and the losses of the log."""
    return {
        "weights": tensor_hash(dict(trainer.model.named_parameters())),
        "optimizer": tensor_hash(trainer.optimizer.state_tensors()),
        "masters": tensor_hash(trainer.optimizer.master_tensors()),
        "losses": [(r["global_step"], r["loss"]) for r in trainer.state.log_history if "loss" in r],
        "train_loss": trainer.state.train_loss,
        "consumed": trainer.state.consumed_samples,
    }


@pytest.fixture
def tiny(tmp_path) -> TinyRun:
    return TinyRun(tmp_path / "out")


@pytest.fixture
def tokens():
    return Tokens


@pytest.fixture
def run_hash_of():
    return run_hash


@pytest.fixture
def log_lines(caplog, monkeypatch):
    """The messages of the toolkit's logger, as a function to call when the run is over."""
    from paddlenlp.utils.log import logger

    monkeypatch.setattr(logger, "propagate", True)
    caplog.set_level(logging.INFO, logger="PaddleNLP")
    return lambda: [record.getMessage() for record in caplog.records]
