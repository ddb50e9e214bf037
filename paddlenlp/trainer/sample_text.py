"""A sample of what the model writes, before and after training."""

from __future__ import annotations

from logging import INFO, WARNING
from typing import Any

import numpy as np
import paddle

from paddlenlp.trainer.callbacks import TrainerCallback
from paddlenlp.trainer.state import TrainerControl, TrainerState
from paddlenlp.trainer.undisturbed import eval_mode
from paddlenlp.utils.log import logger

TEMPERATURE = 0.8
TOP_P = 0.95


class SampleTextCallback(TrainerCallback):
    """Logs how the model continues `sample_prompt`: a look at the model, which never stops or changes training.

    All ranks compute it, since each may hold a part of the model; the first logs it.
    """

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """The sample before training."""
        self._show("before", args, kwargs["model"], kwargs["tokenizer"])

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """The sample after training."""
        self._show("after", args, kwargs["model"], kwargs["tokenizer"])

    def _show(self, when: str, args: Any, model: Any, tokenizer: Any) -> None:
        try:
            level, line = INFO, f"Sample {when} training: {sample_text(model, tokenizer, args)!r}"
        except Exception as error:
            level, line = WARNING, f"No sample {when} training: {error!r}"
        if args.process_index == 0:
            logger.log(level, line)


def sample_text(model: Any, tokenizer: Any, args: Any) -> str:
    """`args.sample_prompt` and up to `args.sample_max_new_tokens` tokens drawn after it, with a fixed seed."""
    prompt = tokenizer.encode_ids(args.sample_prompt)
    with eval_mode(model):
        ids = model.generate(
            paddle.to_tensor(np.asarray([prompt], dtype=np.int64)),
            max_new_tokens=args.sample_max_new_tokens,
            do_sample=True,
            temperature=TEMPERATURE,
            top_p=TOP_P,
            eos_token_id=tokenizer.eos_token_id,
            seed=args.seed,
        )
    return tokenizer.decode(ids.numpy()[0].tolist(), skip_special_tokens=True)
