"""The three argument classes of llm/run_pretrain.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Optional

from paddlenlp.nn.flags import WORDS

from .fields import acts, in_group, noted
from .options import DATA_FORMATS, IntervalStrategy
from .planning_args import PlanningArguments
from .training_args import TrainingArguments

#: Steps of a run under autotuner_benchmark.
AUTOTUNER_STEPS = 5


@in_group("model")
@dataclass
class ModelArguments:
    """Which model, which tokenizer, and what to change in its configuration."""

    model_name_or_path: str = acts(
        "__internal_testing__/tiny-random-llama",
        "Folder or hub name of the model: config.json gives its shape; weights are read only with continue_training.",
    )
    tokenizer_name_or_path: Optional[str] = acts(
        None, "Folder or hub name of the tokenizer. Default: that of model_name_or_path."
    )
    config_name: Optional[str] = acts(
        None, "Folder or hub name whose config.json gives the shape. Default: that of model_name_or_path."
    )
    model_type: Optional[str] = noted(
        None, "Model family, as files of 2023 name it.", "the family is the model_type of the model's config.json"
    )
    continue_training: bool = acts(
        False, "Start from the weights of model_name_or_path. Default: start from random weights."
    )
    num_hidden_layers: Optional[int] = acts(
        None, "Number of layers, in place of the one in config.json. Default: config.json's.", ge=1
    )
    hidden_dropout_prob: float = acts(
        0.1, "Dropout of hidden states, for families whose configuration has it.", ge=0, lt=1
    )
    attention_probs_dropout_prob: float = acts(
        0.1, "Dropout of attention probabilities, for families whose configuration has it.", ge=0, lt=1
    )
    use_fast_layer_norm: str = acts(
        "auto",
        "The LayerNorm of external_ops; with true or require fast_ln's, and its RMSNorm too.",
        choices=WORDS,
    )
    fuse_attention_qkv: Optional[bool] = acts(
        None, "Keep the query, key and value matrices in one tensor. Default: as config.json says."
    )
    fuse_attention_ffn: Optional[bool] = acts(
        None, "Keep the gate and up matrices of the MLP in one tensor. Default: as config.json says."
    )

    @property
    def config_source(self) -> str:
        """Folder or name config.json is read from."""
        return self.config_name or self.model_name_or_path

    @property
    def tokenizer_source(self) -> str:
        """Folder or name the tokenizer is read from."""
        return self.tokenizer_name_or_path or self.model_name_or_path


@in_group("data")
@dataclass
class DataArguments:
    """Which tokens, and how they are cut into samples."""

    input_dir: Optional[str] = acts(
        None,
        'Folder with .bin/.idx (or _ids.npy/_idx.npz) pairs, the prefix of one pair, a mixture "weight1 prefix1 '
        'weight2 prefix2 ...", or a .json file that describes one. Required.',
    )
    split: str = acts("949,50,1", "Shares of documents for training, validation and test.")
    max_seq_length: int = acts(1024, "Tokens per sample; one more is read for the labels.", ge=1)
    share_folder: bool = acts(
        False, "All machines see one file system: only global rank 0 builds the index. Default: rank 0 of each machine."
    )
    stable_data_order: bool = acts(
        False,
        "Shuffle each pass over the documents by itself, so that what is read first stays the same when max_steps is "
        "raised or a data set is added. Default: PaddleNLP's order, which depends on the number of samples.",
    )
    reset_position_ids: bool = acts(
        False,
        "Count positions from 0 again behind each end of a document (the tokenizer's eos_token, which "
        "create_pretraining_data.py --append_eos writes).",
    )
    reset_attention_mask: bool = acts(
        False,
        "Attention, and all else that looks at other tokens, stays within the document. Default: tokens see all tokens "
        "of the sample before them. Documents end as for reset_position_ids.",
    )
    data_impl: str = acts("mmap", "Format of the .idx file.", choices=DATA_FORMATS)
    skip_warmup: bool = acts(True, "Do not read the token file through once to warm the page cache.")
    data_cache: Optional[str] = acts(
        None, "Folder of the sample index. Default: index-cache/ beside the data, which is also preferred if it exists."
    )


@in_group("evaluation")
@dataclass
class _PretrainingEvaluation:
    eval_iters: int = acts(10, "Batches of one evaluation.", ge=1)
    test_iters: int = acts(100, "Batches of the test at the end.", ge=1)


@in_group("sample")
@dataclass
class _SampleText:
    sample_prompt: Optional[str] = acts(
        None, "Text the model continues before and after training; the log shows both. Default: none."
    )
    sample_max_new_tokens: int = acts(64, "Length of that continuation in tokens.", ge=1)


@in_group("run")
@dataclass
class PreTrainingArguments(PlanningArguments, _SampleText, _PretrainingEvaluation, TrainingArguments):
    """TrainingArguments and what only pretraining knows."""

    autotuner_benchmark: bool = acts(
        False,
        f"Trial run of an autotuner: {AUTOTUNER_STEPS} steps from random weights; nothing is evaluated, reported, "
        "resumed or saved.",
    )

    @property
    def train_enabled(self) -> bool:
        """Whether to train."""
        return self.do_train or self.autotuner_benchmark

    @property
    def predict_enabled(self) -> bool:
        """Whether to measure the test split at the end."""
        return self.do_predict and not self.autotuner_benchmark

    @property
    def effective_max_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return AUTOTUNER_STEPS if self.autotuner_benchmark else super().effective_max_steps

    @property
    def effective_overwrite_output_dir(self) -> bool:
        """Whether to ignore checkpoints in output_dir."""
        return self.overwrite_output_dir or self.autotuner_benchmark

    @property
    def effective_evaluation_strategy(self) -> IntervalStrategy:
        """When to evaluate."""
        return IntervalStrategy.NO if self.autotuner_benchmark else super().effective_evaluation_strategy

    @property
    def effective_save_strategy(self) -> IntervalStrategy:
        """When to save."""
        return IntervalStrategy.NO if self.autotuner_benchmark else super().effective_save_strategy

    @property
    def effective_load_best_model_at_end(self) -> bool:
        """Whether the best checkpoint's weights are loaded at the end."""
        return super().effective_load_best_model_at_end and not self.autotuner_benchmark

    @property
    def reporters(self) -> List[str]:
        """Where metrics go besides metrics.jsonl."""
        return [] if self.autotuner_benchmark else super().reporters
