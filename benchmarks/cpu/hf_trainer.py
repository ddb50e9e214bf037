"""A peer: the Trainer of Hugging Face's transformers with its own LLaMA and PyTorch's fused AdamW.

It runs in an environment of its own.
"""

from __future__ import annotations

import tempfile
from typing import Any, Dict, List

import common

ARGS = common.parse_arguments()

import torch  # noqa: E402
import transformers  # noqa: E402
from transformers import LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments  # noqa: E402

torch.set_num_threads(ARGS.threads)
STEPS = common.Steps(ARGS)


class Clock(common.Clock, TrainerCallback):
    """Tells `STEPS`."""

    steps = STEPS


class InOrder(Trainer):
    """Reads the rows as they come, with the learning rates of the other sides."""

    def _get_train_sampler(self, *args: Any) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer or self.optimizer, lambda step: common.learning_rate(step) / 1e-3
        )
        return self.lr_scheduler


def collate(rows: List[Any]) -> Dict[str, torch.Tensor]:
    """Labels are shifted already."""
    ids, labels = (torch.stack([torch.from_numpy(row[part]) for row in rows]) for part in (0, 1))
    return {"input_ids": ids, "labels": labels, "shift_labels": labels}


def main() -> None:
    """Train and print the result."""
    size, folder = common.SHAPES[ARGS.shape], str(ARGS.work / ARGS.shape)
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    with tempfile.TemporaryDirectory() as out:
        settings = TrainingArguments(
            output_dir=out, max_steps=ARGS.steps, per_device_train_batch_size=size["batch"],
            gradient_accumulation_steps=size["micro_batches"], learning_rate=1e-3, weight_decay=common.WEIGHT_DECAY,
            adam_beta1=common.BETAS[0], adam_beta2=common.BETAS[1], adam_epsilon=common.ADAM_EPS,
            max_grad_norm=common.CLIP, optim="adamw_torch_fused", logging_steps=1, save_strategy="no", report_to=[],
            use_cpu=True, dataloader_num_workers=0, remove_unused_columns=False, disable_tqdm=True,
        )  # fmt: skip
        InOrder(model, settings, train_dataset=common.rows(ARGS), data_collator=collate, callbacks=[Clock()]).train()
    STEPS.print(f"HF Trainer {transformers.__version__}, torch {torch.__version__}")


if __name__ == "__main__":
    main()
