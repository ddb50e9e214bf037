"""What waits for the parallel layouts: one table, to be deleted when they are here."""

from __future__ import annotations

from typing import Any, Dict, FrozenSet, Tuple

REASON = "this release trains on one process; parallel layouts are not in it yet"

NO_EFFECT_REASON = "it tunes a parallel layout, and this release trains on one process"

#: Argument -> the values that mean "not parallel".
REFUSED_NOW: Dict[str, Tuple[Any, ...]] = {
    "sharding": ("",),
    "sharding_degree": (-1, 1),
    "sharding_parallel_degree": (-1, 1),
    "tensor_parallel_degree": (-1, 1),
    "pipeline_parallel_degree": (-1, 1),
    "virtual_pp_degree": (-1, 1),
    "sep_parallel_degree": (-1, 1),
    "context_parallel_degree": (-1, 1),
    "expert_parallel_degree": (-1, 1),
    "expert_tensor_parallel_degree": (-1, 1),
    "use_expert_parallel": (False,),
    "sequence_parallel": (False,),
}

#: Arguments that change how a layout runs, not whether there is one.
NO_EFFECT_NOW: FrozenSet[str] = frozenset(
    (
        "sharding_comm_buffer_size_MB",
        "data_parallel_config",
        "fuse_sequence_parallel_allreduce",
        "sequence_parallel_config",
        "tensor_parallel_config",
        "tensor_parallel_output",
        "pipeline_parallel_config",
        "sharding_parallel_config",
        "hybrid_parallel_topo_order",
        "distributed_dataloader",
        "split_inputs_sequence_dim",
        "ordered_save_group_size",
        "expert_max_capacity",
        "expert_min_capacity",
    )
)
