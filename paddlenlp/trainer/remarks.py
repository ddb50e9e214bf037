"""What the log should say about arguments that are right but may surprise."""

from __future__ import annotations

from typing import List

from .options import IntervalStrategy
from .rule import Rule

_EPOCH = IntervalStrategy.EPOCH

REMARKS: List[Rule] = [
    Rule(
        ("warmup_steps", "warmup_ratio"),
        lambda a: a.warmup_steps > 0 and a.warmup_ratio > 0,
        lambda a: f"warmup_steps {a.warmup_steps} is used; warmup_ratio {a.warmup_ratio:g} is ignored.",
    ),
    Rule(
        ("warmup_steps", "warmup_ratio", "max_steps"),
        lambda a: a.train_enabled and a.warmup() > a.effective_max_steps,
        lambda a: (
            f"The warm-up of {a.warmup():g} steps is longer than the run of {a.effective_max_steps}: "
            "the peak learning rate is never reached."
        ),
    ),
    Rule(
        ("evaluation_strategy", "do_eval"),
        lambda a: a.do_eval and a.evaluation_strategy == IntervalStrategy.NO and a.given("evaluation_strategy"),
        "do_eval is true, so evaluation_strategy no is read as steps.",
    ),
    Rule(
        ("eval_steps", "logging_steps", "evaluation_strategy"),
        lambda a: a.eval_steps is None and a.effective_evaluation_strategy == IntervalStrategy.STEPS,
        lambda a: f"eval_steps is not set: evaluating every {a.effective_eval_steps} steps (logging_steps).",
    ),
    Rule(
        ("evaluation_strategy", "save_strategy", "logging_strategy"),
        lambda a: _EPOCH in (a.evaluation_strategy, a.save_strategy, a.logging_strategy),
        "strategy epoch: a pretraining run is one epoch, which ends with its last step.",
    ),
    Rule(
        ("fp16_opt_level", "fp16", "bf16"),
        lambda a: a.given("fp16_opt_level") and a.fp16_opt_level != "O0" and not (a.fp16 or a.bf16),
        lambda a: f"fp16_opt_level {a.fp16_opt_level} changes nothing without bf16 or fp16.",
    ),
    Rule(
        ("fp16_opt_level", "fp16", "bf16"),
        lambda a: a.fp16_opt_level == "O0" and (a.fp16 or a.bf16),
        "fp16_opt_level O0 turns bf16 and fp16 off: training in float32.",
    ),
    Rule(
        ("amp_master_grad", "fp16_opt_level", "fp16", "bf16"),
        lambda a: a.amp_master_grad and not a.effective_amp_master_grad,
        "amp_master_grad changes nothing: gradients are float32 already without bf16 or fp16 at O2.",
    ),
    Rule(
        ("no_recompute_layers", "recompute"),
        lambda a: bool(a.no_recompute_layers) and not a.recompute,
        "no_recompute_layers changes nothing without recompute.",
    ),
    Rule(
        ("autotuner_benchmark",),
        lambda a: a.autotuner_benchmark,
        lambda a: (
            f"autotuner_benchmark: {a.effective_max_steps} steps from random weights; nothing is evaluated, "
            "predicted, reported, resumed or saved."
        ),
    ),
]
