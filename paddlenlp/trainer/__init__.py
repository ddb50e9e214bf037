"""Arguments, the training loop, callbacks and checkpoints. Importing this package does not import Paddle."""

from __future__ import annotations

from paddlenlp.utils.lazy import lazy_module

__getattr__, __dir__, __all__ = lazy_module(
    __name__,
    {
        "PdArgumentParser": "argparser",
        "TrainingArguments": "training_args",
        "ModelArguments": "pretraining_args",
        "DataArguments": "pretraining_args",
        "PreTrainingArguments": "pretraining_args",
        "IntervalStrategy": "options",
        "Trainer": "trainer",
        "TrainOutput": "trainer",
        "PredictionOutput": "evaluation",
        "TrainerState": "state",
        "TrainerControl": "state",
        "TrainerCallback": "callbacks",
        "CallbackHandler": "callbacks",
        "DefaultFlowCallback": "callbacks",
        "PrinterCallback": "callbacks",
        "EarlyStoppingCallback": "callbacks",
        "ProgressCallback": "progress",
        "SampleTextCallback": "sample_text",
        "set_seed": "rng",
        "get_last_checkpoint": ".checkpoint.folder",
        "speed_metrics": "metrics",
        "peak_tflops": "peak",
    },
)
