"""The toolkit's own model, optimizer and training step on the data and weights that the peers get.

--set NAME=VALUE ... sets arguments of the run, such as use_fused_rope=false; --plain OP ... runs the plain version of
operations of paddlenlp/nn/kernels.py; --untuned leaves the process as it is.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]

import common  # noqa: E402

ARGS = common.parse_arguments("untuned", lists=("set", "plain"))

from paddlenlp.utils.cpu_tuning import apply_cpu_tuning  # noqa: E402

TUNING = [] if ARGS.untuned else apply_cpu_tuning()

import paddle  # noqa: E402

from paddlenlp.nn import configure_run, kernels, plain  # noqa: E402
from paddlenlp.trainer.optimizer import build_optimizer  # noqa: E402
from paddlenlp.trainer.step import TrainStep  # noqa: E402
from paddlenlp.trainer.timers import Phases  # noqa: E402
from paddlenlp.trainer.training_args import TrainingArguments  # noqa: E402
from paddlenlp.transformers import AutoModelForCausalLM  # noqa: E402


def main() -> None:
    """Train and print the result."""
    paddle.set_device("cpu")
    settings = TrainingArguments(
        output_dir="unused",
        adam_beta1=common.BETAS[0],
        adam_beta2=common.BETAS[1],
        adam_epsilon=common.ADAM_EPS,
        weight_decay=common.WEIGHT_DECAY,
        max_grad_norm=common.CLIP,
        **dict(word.split("=", 1) for word in ARGS.set),
    )
    configure_run(settings)
    model = AutoModelForCausalLM.from_pretrained(str(ARGS.work / ARGS.shape))
    model.train()
    rates = paddle.optimizer.lr.LambdaDecay(1.0, common.learning_rate)
    optimizer = build_optimizer(model, settings, rates)
    loop = TrainStep(model, optimizer, rates, lambda event: None, Phases(False))
    data = common.batches(ARGS.work, ARGS.shape, ARGS.steps)

    def step(number: int) -> float:
        micro_batches = [
            {"input_ids": paddle.to_tensor(ids), "labels": paddle.to_tensor(labels)} for ids, labels in data[number]
        ]
        return loop.run(number + 1, micro_batches).loss

    print("\n".join([*TUNING, *kernels.report()]), file=sys.stderr)
    with kernels.wrapped(lambda name, kernel: getattr(plain, name) if name in ARGS.plain else kernel):
        common.measure(f"paddlenlp on paddle {paddle.__version__}", ARGS, step)


if __name__ == "__main__":
    main()
