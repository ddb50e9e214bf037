"""Arguments of the training loop itself: what runs, how long, with which optimizer and learning rate."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from typing import List, Optional

from .fields import acts, in_group, noted, refused
from .options import SCHEDULES


@in_group("run")
@dataclass
class RunArguments:
    """What to run, and where."""

    output_dir: str = acts(MISSING, "Folder for checkpoints, the final model, metrics and logs; made if it is missing.")
    overwrite_output_dir: bool = acts(
        False, "Start from step 0 even if output_dir holds checkpoints. Default: resume from the newest valid one."
    )
    do_train: bool = acts(False, "Train.")
    do_eval: bool = acts(False, "Evaluate on the validation split during training and at its end.")
    do_predict: bool = acts(False, "Measure the loss on the test split after training.")
    seed: int = acts(42, "Seed of initialisation, dropout and the order of the data.", ge=0)
    device: Optional[str] = acts(
        "gpu",
        "Where to run: cpu, gpu or gpu:N. The default takes the GPU if Paddle can use one and the CPU otherwise; "
        "an explicit gpu without one is an error.",
    )
    no_cuda: bool = acts(False, "Run on the CPU even if there is a GPU; the same as device cpu.")
    cpu_tuning: bool = acts(
        True,
        "On CPU runs, set the environment levers (memory allocator, MKL dispatch, Paddle flags) that speed up Paddle, "
        "each only where it is right and you have not set it yourself; all are logged.",
    )


@in_group("loop")
@dataclass
class LoopArguments:
    """How many samples and steps."""

    per_device_train_batch_size: int = acts(8, "Samples per device in one forward and backward pass.", ge=1)
    per_device_eval_batch_size: int = acts(8, "Samples per device in one evaluation step.", ge=1)
    gradient_accumulation_steps: int = acts(1, "Passes whose gradients are summed before one optimizer step.", ge=1)
    max_steps: int = acts(-1, "Optimizer steps of the whole run, resumed part included. Required for training.")
    num_train_epochs: float = noted(
        1.0,
        "Passes over the data. The length of a pretraining run is set by max_steps.",
        "the length of a pretraining run is max_steps; epochs are not counted",
    )
    skip_data_intervals: Optional[List[List[int]]] = acts(
        None,
        "Step ranges [first, last] (counted from 1, both included) whose data is passed over without training, "
        "as [[11, 20], [31, 35]]. Default: none.",
    )
    count_trained_tokens: bool = acts(
        False, "Count and log the tokens trained on, all of them and those that are not pad_token_id."
    )
    pad_token_id: int = acts(0, "Token id that count_trained_tokens takes for padding.")
    dataloader_num_workers: int = acts(0, "Worker processes that read batches. 0: read in the training process.", ge=0)
    dataloader_drop_last: bool = acts(False, "Leave out an incomplete last batch. Default: use it.")
    distributed_dataloader: Optional[bool] = noted(
        False,
        "Under tensor or pipeline parallelism only the first rank of each group reads the data.",
        "the token files are memory-mapped, and every process reads its own",
    )
    lazy_data_processing: Optional[bool] = noted(
        True,
        "Process examples when they are read rather than all beforehand.",
        "the token files are memory-mapped and always read on demand",
    )
    remove_unused_columns: Optional[bool] = noted(
        True,
        "Drop dataset columns the model does not take.",
        "the pretraining dataset has no other columns than the token ids",
    )
    label_names: Optional[List[str]] = noted(
        None, "Names of the label entries in a batch.", "the labels of pretraining are always the next tokens"
    )


@in_group("optimizer")
@dataclass
class OptimizerArguments:
    """AdamW and gradient clipping."""

    optim: str = refused("adamw", "The optimizer.", "AdamW is the one optimizer of this toolkit")
    weight_decay: float = acts(
        0.0, "Decoupled weight decay of every parameter whose name holds neither bias nor norm.", ge=0
    )
    adam_beta1: float = acts(0.9, "Decay rate of AdamW's first moment.", ge=0, lt=1)
    adam_beta2: float = acts(0.999, "Decay rate of AdamW's second moment.", ge=0, lt=1)
    adam_epsilon: float = acts(1e-8, "Term added to AdamW's denominator.", gt=0)
    max_grad_norm: float = acts(1.0, "Gradients are scaled down to this global L2 norm. 0: no clipping.", ge=0)
    offload_optim: Optional[bool] = refused(
        False, "Keep the optimizer state in host memory.", "moving the optimizer state to host memory is not available"
    )
    release_grads: Optional[bool] = noted(
        False, "Free the gradients' memory after each step.", "gradients are freed after each step in any case"
    )
    flatten_param_grads: Optional[bool] = noted(
        False,
        "Update all parameters through one flat buffer (NPU only in the original).",
        "it is meant for NPUs, which this toolkit does not support",
    )


@in_group("schedule")
@dataclass
class ScheduleArguments:
    """The learning rate over the steps."""

    learning_rate: float = acts(5e-5, "Peak learning rate, reached at the end of warm-up.", ge=0)
    min_learning_rate: float = acts(
        1e-5, "Learning rate at decay_steps and after it (schedules linear and cosine).", ge=0
    )
    lr_scheduler_type: str = acts(
        "linear",
        "Shape of the schedule after warm-up. linear and cosine fall to min_learning_rate at decay_steps.",
        choices=SCHEDULES,
    )
    warmup_ratio: float = acts(0.0, "Warm-up as a share of max_steps; used when warmup_steps is 0.", ge=0, le=1)
    warmup_steps: int = acts(0, "Steps of linear warm-up from 0. When it is above 0, warmup_ratio is ignored.", ge=0)
    decay_steps: Optional[float] = acts(
        None, "Step at which linear and cosine reach min_learning_rate. Default: max_steps.", gt=0
    )
    num_cycles: float = acts(
        0.5,
        "Cosine periods between warm-up and max_steps in the Trainer's own cosine schedule; pretraining's cosine "
        "is half a period.",
        gt=0,
    )
    lr_end: float = acts(1e-7, "Final learning rate of the polynomial schedule.", ge=0)
    power: float = acts(1.0, "Exponent of the polynomial schedule.", gt=0)
