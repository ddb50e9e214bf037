"""A peer: the Trainer of the PaddleNLP wheel with its own LLaMA.

It runs in an environment of its own, whose `paddlenlp` is the wheel's.
"""

from __future__ import annotations

import tempfile
from typing import Any, Dict, List

import common

ARGS = common.parse_arguments()

import numpy as np  # noqa: E402
import paddle  # noqa: E402

import paddlenlp  # noqa: E402
from paddlenlp.trainer import Trainer, TrainerCallback, TrainingArguments  # noqa: E402
from paddlenlp.transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402

STEPS = common.Steps(ARGS)


class Rows(paddle.io.Dataset):
    """Paddle takes no list for a dataset."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = common.rows(ARGS)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.rows[index]


class Clock(common.Clock, TrainerCallback):
    """Tells `STEPS`."""

    steps = STEPS


class InOrder(Trainer):
    """Reads the rows as they come."""

    def _get_train_sampler(self) -> Any:
        return paddle.io.BatchSampler(self.train_dataset, shuffle=False, batch_size=self.args.train_batch_size)


def collate(rows: List[Any]) -> Dict[str, np.ndarray]:
    """Labels are shifted already."""
    return {"input_ids": np.stack([row[0] for row in rows]), "labels": np.stack([row[1] for row in rows])}


def main() -> None:
    """Train and print the result."""
    paddle.set_device("cpu")
    size, folder = common.SHAPES[ARGS.shape], str(ARGS.work / ARGS.shape)
    config = LlamaConfig.from_pretrained(folder)
    config.dtype, config.seq_length = "float32", size["seq"]
    model = LlamaForCausalLM.from_pretrained(folder, config=config, dtype="float32", convert_from_torch=True)
    rates = paddle.optimizer.lr.LambdaDecay(1e-3, lambda step: common.learning_rate(step) / 1e-3)
    with tempfile.TemporaryDirectory() as out:
        settings = TrainingArguments(
            output_dir=out, max_steps=ARGS.steps, per_device_train_batch_size=size["batch"],
            gradient_accumulation_steps=size["micro_batches"], learning_rate=1e-3, weight_decay=common.WEIGHT_DECAY,
            adam_beta1=common.BETAS[0], adam_beta2=common.BETAS[1], adam_epsilon=common.ADAM_EPS,
            max_grad_norm=common.CLIP, logging_steps=1, save_strategy="no", report_to=[], device="cpu", do_train=True,
            dataloader_num_workers=0, disable_tqdm=True, recompute=False, overwrite_output_dir=True,
        )  # fmt: skip
        trainer = InOrder(
            model=model, args=settings, train_dataset=Rows(), data_collator=collate, optimizers=(None, rates),
            callbacks=[Clock()],
        )  # fmt: skip
        trainer.is_pretraining = True
        trainer.train()
    STEPS.print(f"PaddleNLP {paddlenlp.__version__}, paddle {paddle.__version__}")


if __name__ == "__main__":
    main()
