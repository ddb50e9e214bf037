"""Arguments about what a run tells and keeps: evaluation, checkpoints, logs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Optional

from .fields import acts, in_group, noted, refused
from .options import REPORTERS, IntervalStrategy


@in_group("evaluation")
@dataclass
class EvaluationArguments:
    """When and how much to evaluate."""

    evaluation_strategy: IntervalStrategy = acts(
        IntervalStrategy.NO,
        "When to evaluate: no, steps (every eval_steps) or epoch (at the end). With do_eval, no means steps.",
    )
    eval_steps: Optional[int] = acts(None, "Steps between evaluations. Default: logging_steps.", ge=1)
    max_evaluate_steps: int = acts(
        -1, "Upper bound of the batches of one evaluation or prediction. -1: no bound.", ge=-1
    )
    minimum_eval_times: Optional[int] = acts(
        None, "Evaluate at least this many times in the run, if need be more often than every eval_steps.", ge=1
    )
    eval_accumulation_steps: Optional[int] = noted(
        None,
        "Prediction steps after which outputs move to host memory.",
        "evaluation keeps only the summed loss, so there are no outputs to move",
    )
    prediction_loss_only: bool = noted(
        False,
        "Return only the loss from evaluation.",
        "evaluation and prediction of a pretraining run return only the loss",
    )
    load_best_model_at_end: Optional[bool] = acts(
        False,
        "At the end load the weights of the checkpoint with the best metric. Needs evaluation and saving in step.",
    )
    metric_for_best_model: Optional[str] = acts(
        None, "Metric that load_best_model_at_end compares, such as loss or ppl. Default: loss."
    )
    greater_is_better: Optional[bool] = acts(
        None, "Whether a greater metric is better. Default: no for loss and ppl, yes for anything else."
    )


@in_group("checkpoint")
@dataclass
class CheckpointArguments:
    """When and what to save; how to resume."""

    save_strategy: IntervalStrategy = acts(
        IntervalStrategy.STEPS,
        "When to save a checkpoint: no, steps (every save_steps) or epoch (at the end of the run).",
    )
    save_steps: int = acts(500, "Steps between checkpoints.", ge=1)
    save_total_limit: Optional[int] = acts(
        None,
        "Keep at most this many checkpoints, deleting the oldest; the best one is kept too. Default: keep all.",
        ge=1,
    )
    resume_from_checkpoint: Optional[str] = acts(
        None, "Checkpoint folder to resume from. Default: the newest valid one of output_dir."
    )
    ignore_data_skip: bool = acts(
        False, "On resume start the data from its beginning. Default: go on where the checkpoint stopped."
    )
    ignore_load_lr_and_optim: Optional[bool] = acts(
        False, "On resume load only the weights: optimizer state and learning rate start anew."
    )
    ignore_save_lr_and_optim: Optional[bool] = acts(
        False, "Save checkpoints without optimizer state and learning rate; exact resume is then impossible."
    )
    unified_checkpoint: Optional[bool] = noted(
        False,
        "Save in the unified layout: safetensors, whole tensors, any parallel layout can load them.",
        "every checkpoint is written in the unified layout",
    )
    unified_checkpoint_config: Optional[str] = acts(
        "", "Words that change the unified layout, separated by blanks or commas; see the table of option words."
    )
    save_on_each_node: bool = noted(
        False,
        "Save on the first process of every node.",
        "each process writes its own files of a checkpoint; give all nodes an output_dir that they share",
    )
    use_async_save: Optional[bool] = acts(
        False,
        "Write checkpoints in the background, as the word async_save of unified_checkpoint_config says. Takes host "
        "memory for a copy of what each process saves.",
    )
    output_signal_dir: Optional[str] = noted(
        None,
        "Folder for the signal files of background saving.",
        "no signal files are written: a checkpoint gets its name when it is whole, so its folder is the signal",
    )
    ordered_save_group_size: int = noted(
        0,
        "How many processes of a group may save at once. 0: all.",
        "all processes write at once, in blocks of 32 MB and in step with each other",
    )
    save_sharded_model: bool = refused(
        False, "Save each sharding rank's part as it is.", "checkpoints hold whole tensors, which any layout can load"
    )
    load_sharded_model: bool = refused(
        False, "Load a checkpoint of save_sharded_model.", "checkpoints hold whole tensors, which any layout can load"
    )
    save_sharding_stage1_model_include_freeze_params: Optional[bool] = noted(
        False, "Save frozen parameters with save_sharded_model.", "pretraining freezes no parameters, and all are saved"
    )
    force_reshard_pp: Optional[bool] = noted(
        False, "Reshard the pipeline stages on load.", "any layout loads any checkpoint in any case"
    )
    ckpt_quant_stage: str = refused(
        "O0", "Compression of the saved optimizer state.", "compressed optimizer state is not available"
    )
    pdc_download_ckpt: Optional[bool] = refused(
        False, "Fetch the checkpoint from Baidu's training platform.", "that platform's storage is not supported"
    )
    pdc_download_timeout: Optional[int] = refused(
        300, "Seconds that pdc_download_ckpt may take.", "that platform's storage is not supported"
    )


@in_group("logging")
@dataclass
class LoggingArguments:
    """What is logged, where and how often."""

    logging_strategy: IntervalStrategy = acts(
        IntervalStrategy.STEPS, "When to log: no, steps (every logging_steps) or epoch (at the end of the run)."
    )
    logging_steps: int = acts(500, "Steps between log lines.", ge=1)
    logging_first_step: bool = acts(False, "Also log step 1.")
    logging_dir: Optional[str] = acts(
        None, "Folder of the VisualDL or TensorBoard files. Default: output_dir/runs/<date>_<host>."
    )
    report_to: Optional[List[str]] = acts(
        None,
        "Where metrics go besides metrics.jsonl: visualdl, tensorboard, wandb, all or none. Default: visualdl.",
        choices=REPORTERS,
    )
    run_name: Optional[str] = acts(None, "Name of the run for Weights & Biases. Default: output_dir.")
    wandb_api_key: Optional[str] = acts(
        None, "Key for Weights & Biases. Default: that of `wandb login`. Never logged or saved.", secret=True
    )
    wandb_http_proxy: Optional[str] = acts(None, "HTTP proxy for Weights & Biases. Default: none.")
    disable_tqdm: Optional[bool] = acts(None, "Print log lines without a progress bar. Default: show the bar.")
    skip_memory_metrics: bool = acts(True, "Leave memory use out of the log lines.")
    skip_profile_timer: Optional[bool] = acts(
        True, "Leave out the time of each part of a step (read, compute, update)."
    )
    profile_steps: Optional[List[int]] = acts(
        None,
        "First and last step to profile, counted from 1, such as 20,22: writes a Chrome trace into output_dir/profile, "
        "and a table of the longest operations into the log. Default: none.",
    )
    metrics_output_path: Optional[str] = acts(
        None, "Folder for metrics_rank<N>.json, one JSON object per log line. Default: not written."
    )
    log_on_each_node: bool = acts(True, "Log on the first process of every node rather than of the whole job.")
