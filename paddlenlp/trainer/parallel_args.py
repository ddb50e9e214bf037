"""Arguments of the parallel layouts. In all degrees -1 means: not set, found from the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from .fields import acts, in_group, noted
from .options import TOPOLOGY_ORDERS


@in_group("parallel")
@dataclass
class ParallelArguments:
    """Which part of the work each process takes."""

    tensor_parallel_degree: int = acts(-1, "Processes that share every layer's matrices. -1 or 1: off.", ge=-1)
    pipeline_parallel_degree: int = acts(-1, "Processes among which the layers are dealt out. -1 or 1: off.", ge=-1)
    virtual_pp_degree: int = acts(1, "Chunks of layers per pipeline process (interleaved schedule).", ge=-1)
    sharding: str = acts(
        "",
        "Splitting of optimizer state (stage1), also gradients (stage2), also parameters (stage3) among data-parallel "
        'processes; with offload ("stage2 offload") these shares lie in host memory. true: stage1. Empty: off.',
        switch="stage1",
    )
    sharding_parallel_degree: int = acts(-1, "Processes of one sharding group. -1: all data-parallel ones.", ge=-1)
    sharding_degree: int = acts(-1, "Old name of sharding_parallel_degree.", ge=-1)
    sep_parallel_degree: int = acts(
        -1, "Processes that share a sequence by all-to-all over heads. -1 or 1: off.", ge=-1
    )
    context_parallel_degree: int = acts(-1, "Processes that share a sequence in ring attention. -1 or 1: off.", ge=-1)
    sequence_parallel: bool = acts(
        False, "Under tensor parallelism, cut activations between layers along the sequence."
    )
    fuse_sequence_parallel_allreduce: bool = noted(
        False,
        "Sum the gradients of sequence-parallel norms in one exchange.",
        "they always travel together, in buckets",
    )
    tensor_parallel_output: bool = acts(True, "Leave the logits cut over the vocabulary; the loss reads them cut.")
    tensor_parallel_rank: int = noted(
        0, "Rank in the tensor-parallel group.", "ranks come from the launcher's environment variables"
    )
    split_inputs_sequence_dim: bool = noted(
        True,
        "Cut the inputs along the sequence under sep or context parallelism.",
        "every process reads whole samples and takes its part of them",
    )
    hybrid_parallel_topo_order: Optional[str] = acts(
        None,
        "Order of the axes over the ranks: pp_first (data, pipeline, sharding, ...) or sharding_first (data, sharding, "
        "pipeline, ...). Default: pp_first.",
        choices=TOPOLOGY_ORDERS,
    )
    sharding_comm_buffer_size_MB: int = acts(
        -1, "Size in MB of the buckets in which gradients and parameters travel. -1: 32.", ge=-1
    )
    tensor_parallel_config: str = acts("", "Option words of tensor parallelism, separated by blanks or commas.")
    pipeline_parallel_config: str = acts("", "Option words of pipeline parallelism, separated by blanks or commas.")
    sharding_parallel_config: str = acts("", "Option words of sharding, separated by blanks or commas.")
    sequence_parallel_config: str = acts("", "Option words of sequence parallelism, separated by blanks or commas.")
    data_parallel_config: str = acts("", "Option words of data parallelism, separated by blanks or commas.")


@in_group("expert")
@dataclass
class ExpertArguments:
    """Mixture-of-experts layers over several processes."""

    expert_parallel_degree: int = acts(
        -1,
        "Processes among which the experts are dealt out: a divisor of the sharding degree, or of the data-parallel "
        "processes where nothing is sharded. -1 or 1: off.",
        ge=-1,
    )
    expert_tensor_parallel_degree: int = acts(
        -1, "Processes that share each expert's matrices. -1: tensor_parallel_degree, the only value there is.", ge=-1
    )
    use_expert_parallel: Optional[bool] = acts(
        False, "Deal the experts out among all data-parallel processes; not with sharding."
    )
    expert_max_capacity: Optional[int] = acts(
        2**32, "Most tokens of one micro batch that an expert takes from each rank; the later ones are dropped.", ge=1
    )
    expert_min_capacity: Optional[int] = acts(
        1, "The least that expert_max_capacity may be; no places are kept free for tokens that do not come.", ge=0
    )
