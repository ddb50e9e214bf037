"""Words that arguments may hold: enumerations, choices, and the option words of the "config" strings."""

from __future__ import annotations

from enum import Enum
from typing import Dict, List, NamedTuple

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
BAD_STEP_POLICIES = ("stop", "skip", "rollback")
SAVE_FAILURE_POLICIES = ("stop", "continue")


#: Stage of `sharding` -> how much of the optimizer's work is cut over the ranks.
SHARDING_STAGES = {"stage1": 1, "stage2": 2, "stage3": 3}
OFFLOAD = "offload"


class Word(NamedTuple):
    """One option word.

    Attributes:
        meaning: what it asks for.
        always: why it changes nothing here: the engine does it in any case, or never needs it; "" for a word that acts.
        refused: why it can't be had; "" for a word that is accepted.
    """

    meaning: str
    always: str = ""
    refused: str = ""


_AUTO_ONLY = "it belongs to automatic parallelism, which is not supported"
_COUNTED_FIRST = "the tokens of a whole step are counted before its first pass, so nothing is divided on the way"
_FREED = "gradients are given back after each step in any case"
_SAME_BITS = "ranks that hold the same parameter compute the same bits; nothing has to be copied over them"
_IN_BUCKETS = "gradients travel in buckets at every stage; sharding_comm_buffer_size_MB sets their size"
_OVERLAPPED = "each bucket leaves as soon as the backward pass filled it, at every stage; it needs no other argument"
_BACK_IN_BUCKETS = "updated parameters come back in buckets, all under way at once; none is sent alone"

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
        "async_save": Word(
            "write checkpoints in the background: training waits only until each process has copied its part in memory"
        ),
        "ignore_merge_optimizer": Word(
            "save each process's optimizer states and master weights as they are, not joined over tensor parallelism; "
            "any layout can load them all the same. Not with skip_save_model_weight"
        ),
    },
    "tensor_parallel_config": {
        "enable_mp_async_allreduce": Word(
            "overlap the all-reduce of the input's gradient with the weight's gradient", "this is always done"
        ),
        "enable_mp_skip_c_identity": Word("leave out identity exchanges", "there are none"),
        "enable_mp_fused_linear_param_grad_add": Word(
            "add weight gradients inside the matrix product", "gradients are summed in the buckets they travel in"
        ),
        "enable_sp_async_reduce_scatter": Word(
            "overlap the reduce-scatter of sequence parallelism", "this is always done"
        ),
        "enable_delay_scale_loss": Word(
            "divide by the accumulation steps at the update, not in the loss", _COUNTED_FIRST
        ),
        "sync_param": Word("copy replicated parameters from rank 0 before the update", _SAME_BITS),
        "sync_grad": Word("copy their gradients from rank 0 before the update", _SAME_BITS),
        "sync_moment": Word("copy their moments from rank 0 before the update", _SAME_BITS),
        "replace_with_c_embedding": Word("cut the embedding over the vocabulary", refused=_AUTO_ONLY),
        "replace_with_parallel_cross_entropy": Word("compute the loss on cut logits", refused=_AUTO_ONLY),
    },
    "pipeline_parallel_config": {
        "disable_p2p_cache_shape": Word(
            "send shapes with every exchange", "shapes are never sent: every rank knows them from the batch"
        ),
        "disable_partial_send_recv": Word(
            "under tensor parallelism, let every rank send whole tensors to the next stage, not one share each"
        ),
        "enable_delay_scale_loss": Word(
            "divide by the accumulation steps at the update, not in the loss", _COUNTED_FIRST
        ),
        "enable_dp_comm_overlap": Word("overlap the data-parallel gradient exchange", _OVERLAPPED),
        "enable_sharding_comm_overlap": Word("overlap the sharding gradient exchange", _OVERLAPPED),
        "enable_timer": Word("log the time of the parts of a step, as skip_profile_timer false does"),
        "enable_release_grads": Word("free gradients after each step", _FREED),
        "enable_clear_every_step_cache": Word("forget cached shapes after each step", "no shapes are cached"),
        "enable_overlap_p2p_comm": Word(
            "overlap exchanges between stages with computation", "sends never wait for the receiver"
        ),
        "disable_batch_p2p_comm": Word(
            "send and receive one by one", "each direction between two stages has a connection of its own"
        ),
        "best_unbalanced_scheduler": Word(
            "interleaved schedule for uneven micro batches",
            refused="the interleaved schedule takes gradient_accumulation_steps that are a multiple of "
            "pipeline_parallel_degree; the plain one takes any",
        ),
        "use_dualpipev": Word("the DualPipe-V schedule", refused="the schedules are 1F1B and interleaved 1F1B"),
        "enable_send_recv_overlap": Word("overlap exchanges between stages", refused=_AUTO_ONLY),
        "enable_split_backward": Word("split the backward pass in two", refused=_AUTO_ONLY),
    },
    "sharding_parallel_config": {
        "enable_stage1_tensor_fusion": Word("fuse gradients into buckets (stage1)", _IN_BUCKETS),
        "enable_stage1_overlap": Word("overlap the gradient exchange with the backward pass (stage1)", _OVERLAPPED),
        "enable_stage2_overlap": Word("overlap the gradient exchange with the backward pass (stage2)", _OVERLAPPED),
        "split_param": Word(
            "cut each parameter over the group (stage1)",
            "parameters are always cut, whatever their sizes; amp_master_grad is not needed for it",
        ),
        "disable_stage1_reduce_avg": Word(
            "sum, then divide, in place of averaging in the exchange (stage1)", "gradients are always summed"
        ),
        "enable_stage1_broadcast_overlap": Word(
            "overlap the parameter broadcast with the next forward pass (stage1)", _BACK_IN_BUCKETS
        ),
        "enable_stage1_allgather_overlap": Word(
            "overlap the parameter all-gather with the next forward pass (stage1)", _BACK_IN_BUCKETS
        ),
        "enable_release_grads": Word("free gradients after each step", _FREED),
        "enable_fuse_optimizer_states": Word(
            "keep optimizer states in one buffer", "each rank keeps the states of its own share only, in flat tensors"
        ),
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
    known = OPTION_WORDS[argument]
    problems = []
    for word in split_words(text):
        if word not in known:
            problems.append(f'unknown word "{word}"{did_you_mean(word, known)}')
        elif known[word].refused:
            problems.append(f'"{word}" is not available: {known[word].refused}; leave it out')
    return problems


def option_notes(argument: str, text: str) -> List[str]:
    """One sentence for each accepted word of the config string that changes nothing here."""
    known, words = OPTION_WORDS[argument], split_words(text)
    return [f'"{word}" changes nothing: {known[word].always}' for word in words if word in known and known[word].always]


def parse_options(argument: str, text: str) -> List[str]:
    """The words of the config string of `argument`.

    Raises:
        UsageError: a word is unknown, refused here, or does not go with the others.
    """
    problems = check_options(argument, text)
    if problems:
        raise UsageError(f'{argument} "{text}": ' + "; ".join(problems))
    return split_words(text)


def sharding_problem(text: str) -> str:
    """What is wrong with the words of `sharding`, or ""."""
    words = split_words(text)
    stages = [word for word in words if word in SHARDING_STAGES]
    unknown = [word for word in words if word not in SHARDING_STAGES and word != OFFLOAD]
    if unknown:
        return f'sharding: unknown word "{unknown[0]}"; write stage1, stage2 or stage3, or "stage2 offload"'
    if len(stages) > 1:
        return f"sharding {text!r} names {len(stages)} stages; write one of them"
    if words and not stages:
        return 'sharding "offload" says where the shares of a stage lie; name the stage too, as in "stage2 offload"'
    return ""
