"""Words that arguments may hold: enumerations, choices, and the option words of the "config" strings."""

from __future__ import annotations

from enum import Enum
from typing import Dict, List, NamedTuple, Tuple

from paddlenlp.utils.errors import UsageError

from .suggest import did_you_mean


class IntervalStrategy(str, Enum):
    """When something that recurs happens; equal to its plain string."""

    NO = "no"
    STEPS = "steps"
    EPOCH = "epoch"

    def __str__(self) -> str:
        return str(self.value)


SCHEDULES = ("linear", "cosine", "constant", "constant_with_warmup", "polynomial")
OPT_LEVELS = ("O0", "O1", "O2")
GRANULARITIES = ("full", "full_attn", "core_attn")
REPORTERS = ("visualdl", "tensorboard", "wandb", "all", "none")
TOPOLOGY_ORDERS = ("pp_first", "sharding_first")
DATA_FORMATS = ("mmap", "lazy")


class Word(NamedTuple):
    """One option word: what it asks for, which words it needs, which it excludes, why it is refused here."""

    meaning: str
    needs: Tuple[str, ...] = ()
    excludes: Tuple[str, ...] = ()
    refused: str = ""


_AUTO_ONLY = "it belongs to automatic parallelism, which is not supported"

#: Argument -> its option words.
OPTION_WORDS: Dict[str, Dict[str, Word]] = {
    "unified_checkpoint_config": {
        "skip_save_model_weight": Word(
            "save no separate weights when float32 master weights exist: those take the weights' names"
        ),
        "master_weight_compatible": Word(
            "on resume, take missing master weights from the weights, or missing weights from the master weights"
        ),
        "remove_master_weight": Word("save no master weights; on resume they are made from the weights"),
        "enable_all_options": Word("skip_save_model_weight and master_weight_compatible"),
        "async_save": Word("save in the background", refused="background saving is not available"),
        "ignore_merge_optimizer": Word(
            "save each rank's optimizer part as it is",
            excludes=("skip_save_model_weight",),
            refused="checkpoints hold whole tensors, which any layout can load",
        ),
    },
    "tensor_parallel_config": {
        "enable_mp_async_allreduce": Word("overlap the all-reduce of the input's gradient with the weight's gradient"),
        "enable_mp_skip_c_identity": Word("leave out identity exchanges", needs=("enable_mp_async_allreduce",)),
        "enable_mp_fused_linear_param_grad_add": Word(
            "add weight gradients inside the matrix product", needs=("enable_mp_async_allreduce",)
        ),
        "enable_sp_async_reduce_scatter": Word("overlap the reduce-scatter of sequence parallelism"),
        "enable_delay_scale_loss": Word("divide by the accumulation steps at the update, not in the loss"),
        "sync_param": Word("copy replicated parameters from rank 0 before the update"),
        "sync_grad": Word("copy their gradients from rank 0 before the update"),
        "sync_moment": Word("copy their moments from rank 0 before the update"),
        "replace_with_c_embedding": Word("cut the embedding over the vocabulary", refused=_AUTO_ONLY),
        "replace_with_parallel_cross_entropy": Word("compute the loss on cut logits", refused=_AUTO_ONLY),
    },
    "pipeline_parallel_config": {
        "disable_p2p_cache_shape": Word("send shapes with every exchange"),
        "disable_partial_send_recv": Word("send whole tensors, not one part per tensor-parallel rank"),
        "enable_delay_scale_loss": Word("divide by the accumulation steps at the update, not in the loss"),
        "enable_dp_comm_overlap": Word(
            "overlap the data-parallel gradient exchange", refused="the overlap is known to give wrong gradients"
        ),
        "enable_sharding_comm_overlap": Word("overlap the sharding gradient exchange; needs amp_master_grad"),
        "enable_timer": Word("time the parts of a step"),
        "enable_release_grads": Word("free gradients after each step"),
        "enable_clear_every_step_cache": Word("clear the allocator's cache after each step"),
        "enable_overlap_p2p_comm": Word("overlap exchanges between stages with computation"),
        "disable_batch_p2p_comm": Word("send and receive one by one"),
        "best_unbalanced_scheduler": Word("interleaved schedule for uneven micro batches"),
        "use_dualpipev": Word("the DualPipe-V schedule"),
        "enable_send_recv_overlap": Word("overlap exchanges between stages", refused=_AUTO_ONLY),
        "enable_split_backward": Word("split the backward pass in two", refused=_AUTO_ONLY),
    },
    "sharding_parallel_config": {
        "enable_stage1_tensor_fusion": Word("fuse gradients into buckets (stage1)"),
        "enable_stage1_overlap": Word("overlap the gradient exchange with the backward pass (stage1)"),
        "enable_stage2_overlap": Word("overlap the gradient exchange with the backward pass (stage2)"),
        "split_param": Word("cut each parameter over the group (stage1); needs amp_master_grad"),
        "disable_stage1_reduce_avg": Word("sum, then divide, in place of averaging in the exchange (stage1)"),
        "enable_stage1_broadcast_overlap": Word(
            "overlap the parameter broadcast with the next forward pass (stage1)", excludes=("split_param",)
        ),
        "enable_stage1_allgather_overlap": Word(
            "overlap the parameter all-gather with the next forward pass (stage1)", needs=("split_param",)
        ),
        "enable_release_grads": Word("free gradients after each step"),
        "enable_fuse_optimizer_states": Word("keep optimizer states in one buffer"),
        "enable_tensor_fusion": Word("fuse gradients into buckets", refused=_AUTO_ONLY),
        "enable_overlap": Word("overlap the gradient exchange", refused=_AUTO_ONLY),
    },
    "sequence_parallel_config": {
        "enable_allreduce_avg_in_gradinent_scale": Word("average in the exchange", refused=_AUTO_ONLY),
    },
    "data_parallel_config": {
        "enable_allreduce_avg_in_gradinent_scale": Word("average in the exchange", refused=_AUTO_ONLY),
        "gradient_sync_after_accumulate": Word("exchange gradients once per step", refused=_AUTO_ONLY),
    },
}


def split_words(text: str) -> List[str]:
    """The words of a config string: at commas if there is one, else at blanks."""
    return [word.strip() for word in (text.split(",") if "," in text else text.split()) if word.strip()]


def check_options(argument: str, text: str) -> List[str]:
    """Everything wrong with the config string of `argument`, one sentence each."""
    known, words = OPTION_WORDS[argument], split_words(text)
    problems = []
    for word in words:
        if word not in known:
            problems.append(f'unknown word "{word}"{did_you_mean(word, known)}')
            continue
        if known[word].refused:
            problems.append(f'"{word}" is not available: {known[word].refused}; leave it out')
        problems += [f'"{word}" needs "{other}" too' for other in known[word].needs if other not in words]
        problems += [f'"{word}" and "{other}" exclude each other' for other in known[word].excludes if other in words]
    return problems


def parse_options(argument: str, text: str) -> List[str]:
    """The words of the config string of `argument`.

    Raises:
        UsageError: a word is unknown, refused here, or does not go with the others.
    """
    problems = check_options(argument, text)
    if problems:
        raise UsageError(f'{argument} "{text}": ' + "; ".join(problems))
    return split_words(text)
