"""The one arguments object every room reads: fields as given, and what follows from them as properties."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from typing import List, Optional, Set

from .engine_args import CompatibilityArguments, FusedArguments, PrecisionArguments, RecomputeArguments
from .loop_args import LoopArguments, OptimizerArguments, RunArguments, ScheduleArguments
from .options import IntervalStrategy, parse_options, split_words
from .placement import Placement
from .reliability_args import ReliabilityArguments
from .report_args import CheckpointArguments, EvaluationArguments, LoggingArguments

_STARTED = time.strftime("%b%d_%H-%M-%S")

#: Metrics of which the smaller value is the better one.
_SMALLER_IS_BETTER = ("loss", "eval_loss", "ppl", "eval_ppl")


@dataclass
class TrainingArguments(  # type: ignore[misc]  # output_dir, without default, comes first: bases are read from the last
    CompatibilityArguments,
    LoggingArguments,
    ReliabilityArguments,
    CheckpointArguments,
    EvaluationArguments,
    FusedArguments,
    RecomputeArguments,
    Placement,
    PrecisionArguments,
    ScheduleArguments,
    OptimizerArguments,
    LoopArguments,
    RunArguments,
):
    """Everything about training, plain data without effects: no device, no folders, no Paddle.

    Fields are what the user wrote. Where a value depends on others, read the property: `effective_*`, `eval_enabled`,
    `save_enabled`, `dtype`, `warmup` and so on; fields are never overwritten.
    """

    # ---- processes and batches -------------------------------------------------------------------------------

    @property
    def should_log(self) -> bool:
        """Whether this process logs."""
        return (self.local_process_index if self.log_on_each_node else self.process_index) == 0

    @property
    def train_batch_size(self) -> int:
        """Samples of one micro batch on this device."""
        return self.per_device_train_batch_size

    @property
    def eval_batch_size(self) -> int:
        """Samples of one evaluation batch on this device."""
        return self.per_device_eval_batch_size

    @property
    def samples_per_step(self) -> int:
        """Samples of one optimizer step over all processes."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps * self.dataset_world_size

    @property
    def place(self) -> str:
        """ "cpu" or "gpu", as asked for; `resolve_device` settles it against what Paddle can do."""
        return "cpu" if self.no_cuda or (self.device or "gpu") == "cpu" else "gpu"

    # ---- what runs and how long ------------------------------------------------------------------------------

    @property
    def train_enabled(self) -> bool:
        """Whether to train."""
        return self.do_train

    @property
    def predict_enabled(self) -> bool:
        """Whether to measure the test split at the end."""
        return self.do_predict

    @property
    def effective_max_steps(self) -> int:
        """Optimizer steps of the whole run; 0 when none are asked for."""
        return max(self.max_steps, 0)

    @property
    def effective_overwrite_output_dir(self) -> bool:
        """Whether to ignore checkpoints in output_dir."""
        return self.overwrite_output_dir

    def warmup(self, total: Optional[int] = None) -> float:
        """Warm-up in steps (not rounded): warmup_steps if above 0, else warmup_ratio of `total` (default: the run)."""
        if self.warmup_steps > 0:
            return float(self.warmup_steps)
        return self.warmup_ratio * (self.effective_max_steps if total is None else total)

    @property
    def effective_decay_steps(self) -> float:
        """Step at which linear and cosine schedules reach their minimum."""
        return float(self.effective_max_steps) if self.decay_steps is None else self.decay_steps

    def skips_step(self, step: int) -> bool:
        """Whether the data of `step` (counted from 1) is passed over without training."""
        return any(first <= step <= last for first, last in self.skip_data_intervals or ())

    # ---- evaluating, saving, logging -------------------------------------------------------------------------

    @property
    def effective_evaluation_strategy(self) -> IntervalStrategy:
        """evaluation_strategy, with steps in place of no where do_eval asks for evaluation."""
        strategy = IntervalStrategy(self.evaluation_strategy)
        return IntervalStrategy.STEPS if self.do_eval and strategy == IntervalStrategy.NO else strategy

    @property
    def effective_save_strategy(self) -> IntervalStrategy:
        """save_strategy."""
        return IntervalStrategy(self.save_strategy)

    @property
    def effective_logging_strategy(self) -> IntervalStrategy:
        """logging_strategy."""
        return IntervalStrategy(self.logging_strategy)

    @property
    def eval_enabled(self) -> bool:
        """Whether any evaluation takes place."""
        return self.effective_evaluation_strategy != IntervalStrategy.NO

    @property
    def save_enabled(self) -> bool:
        """Whether any checkpoint is saved."""
        return self.effective_save_strategy != IntervalStrategy.NO

    @property
    def effective_eval_steps(self) -> int:
        """Steps between evaluations: eval_steps or logging_steps, smaller if minimum_eval_times needs it."""
        steps = self.logging_steps if self.eval_steps is None else self.eval_steps
        if self.minimum_eval_times and self.effective_max_steps:
            steps = min(steps, max(1, self.effective_max_steps // self.minimum_eval_times))
        return steps

    @property
    def effective_load_best_model_at_end(self) -> bool:
        """Whether the best checkpoint's weights are loaded at the end."""
        return bool(self.load_best_model_at_end)

    @property
    def effective_metric_for_best_model(self) -> str:
        """Name of the metric that decides which checkpoint is best, with its "eval_" in front."""
        name = self.metric_for_best_model or "loss"
        return name if name.startswith("eval_") else f"eval_{name}"

    @property
    def effective_greater_is_better(self) -> bool:
        """Whether a greater value of that metric is better."""
        if self.greater_is_better is not None:
            return self.greater_is_better
        return self.effective_metric_for_best_model not in _SMALLER_IS_BETTER

    @property
    def reporters(self) -> List[str]:
        """Where metrics go besides metrics.jsonl: names of `report_to` with "all" and "none" worked out."""
        wanted = ["visualdl"] if self.report_to is None else list(self.report_to)
        if "none" in wanted:
            return []
        return ["visualdl", "tensorboard", "wandb"] if "all" in wanted else wanted

    @property
    def effective_logging_dir(self) -> str:
        """Folder of VisualDL and TensorBoard files."""
        return self.logging_dir or f"{self.output_dir}/runs/{_STARTED}_{socket.gethostname()}"

    @property
    def effective_run_name(self) -> str:
        """run_name or output_dir."""
        return self.run_name or self.output_dir

    @property
    def times_phases(self) -> bool:
        """Whether the log tells where the time of a step goes."""
        return not self.skip_profile_timer or "enable_timer" in split_words(self.pipeline_parallel_config)

    @property
    def effective_disable_tqdm(self) -> bool:
        """Whether the progress bar is off."""
        return bool(self.disable_tqdm)

    # ---- precision and checkpoints ---------------------------------------------------------------------------

    @property
    def amp_dtype(self) -> Optional[str]:
        """ "float16", "bfloat16" or, when training in full precision, None."""
        if self.fp16_opt_level == "O0":
            return None
        return "bfloat16" if self.bf16 else "float16" if self.fp16 else None

    @property
    def dtype(self) -> str:
        """Storage dtype of the parameters: low precision only at O2."""
        return self.amp_dtype if self.amp_dtype and self.fp16_opt_level == "O2" else "float32"

    @property
    def effective_amp_master_grad(self) -> bool:
        """amp_master_grad where it means something: with low-precision parameters."""
        return self.amp_master_grad and self.dtype != "float32"

    @property
    def eval_dtype(self) -> Optional[str]:
        """Dtype all weights take for evaluation (bf16_full_eval, fp16_full_eval), or None to leave them."""
        return "bfloat16" if self.bf16_full_eval else "float16" if self.fp16_full_eval else None

    @property
    def saves_beside_training(self) -> bool:
        """Whether checkpoints are written in the background: use_async_save, or async_save among the words."""
        return bool(self.use_async_save) or "async_save" in self.unified_checkpoint_options

    @property
    def unified_checkpoint_options(self) -> Set[str]:
        """The words of unified_checkpoint_config, enable_all_options worked out."""
        words = set(parse_options("unified_checkpoint_config", self.unified_checkpoint_config or ""))
        if "enable_all_options" in words:
            words = words - {"enable_all_options"} | {"skip_save_model_weight", "master_weight_compatible"}
        return words
