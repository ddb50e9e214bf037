"""Rules about the parallel layout, as far as they need no model; `model_fit` has those that do."""

from __future__ import annotations

from typing import Any, List

from paddlenlp.parallel.mesh import Problem, degree_problems

from .options import sharding_problem
from .rule import Rule, View


def _positive(degree: int) -> int:
    return max(1, degree)


def _rows_left(args: Any) -> int:
    """Tokens of a sample that are left over when they are dealt out over sequence and tensor parallel ranks."""
    sequence = _positive(args.sep_parallel_degree) * _positive(args.context_parallel_degree)
    return args.max_seq_length % (sequence * _positive(args.tensor_parallel_degree))


def _rows_message(args: Any) -> str:
    names = ("tensor_parallel_degree", "sep_parallel_degree", "context_parallel_degree")
    degrees = [f"{name} {getattr(args, name)}" for name in names if getattr(args, name) > 1]
    return (
        f"sequence_parallel cuts the tokens of a sample evenly: max_seq_length {args.max_seq_length} must be a "
        f"multiple of {' x '.join(degrees)}"
    )


def _uneven_rounds(args: Any) -> bool:
    interleaved = args.virtual_pp_degree > 1 and args.pipeline_parallel_degree > 1
    return interleaved and args.gradient_accumulation_steps % args.pipeline_parallel_degree != 0


LAYOUT_RULES: List[Rule] = [
    Rule(
        ("device",),
        lambda a: a.world_size > 1 and (a.device or "").startswith("gpu:"),
        lambda a: f'device "{a.device}" is one GPU for {a.world_size} processes; write "gpu" to give each its own',
    ),
    Rule(("sharding",), lambda a: bool(sharding_problem(a.sharding)), lambda a: sharding_problem(a.sharding)),
    Rule(
        ("sharding_comm_buffer_size_MB",),
        lambda a: a.sharding_comm_buffer_size_MB == 0,
        "sharding_comm_buffer_size_MB 0 holds nothing; write at least 1, or -1 for the default",
    ),
    Rule(
        ("virtual_pp_degree",),
        lambda a: a.virtual_pp_degree == 0,
        "virtual_pp_degree 0 is not a number of chunks; write 1 for the plain schedule",
    ),
    Rule(
        ("virtual_pp_degree", "pipeline_parallel_degree"),
        lambda a: a.virtual_pp_degree > 1 and a.pipeline_parallel_degree <= 1,
        lambda a: (
            f"virtual_pp_degree {a.virtual_pp_degree} interleaves the layers of a pipeline, and there is none; set "
            "pipeline_parallel_degree above 1, or virtual_pp_degree to 1"
        ),
    ),
    Rule(
        ("gradient_accumulation_steps", "virtual_pp_degree", "pipeline_parallel_degree"),
        _uneven_rounds,
        lambda a: (
            f"the interleaved schedule (virtual_pp_degree {a.virtual_pp_degree}) takes micro batches in rounds of "
            f"pipeline_parallel_degree {a.pipeline_parallel_degree}: gradient_accumulation_steps "
            f"{a.gradient_accumulation_steps} must be a multiple of it, or virtual_pp_degree 1"
        ),
    ),
    Rule(
        ("max_seq_length", "sep_parallel_degree"),
        lambda a: a.max_seq_length % _positive(a.sep_parallel_degree) != 0,
        lambda a: (
            f"max_seq_length {a.max_seq_length} must be a multiple of sep_parallel_degree {a.sep_parallel_degree}"
        ),
    ),
    Rule(
        ("max_seq_length", "context_parallel_degree"),
        lambda a: a.context_parallel_degree > 1 and a.max_seq_length % (2 * a.context_parallel_degree) != 0,
        lambda a: (
            f"max_seq_length {a.max_seq_length} must be a multiple of twice context_parallel_degree "
            f"{a.context_parallel_degree}: every process takes one chunk of either half"
        ),
    ),
    Rule(
        ("sequence_parallel", "max_seq_length", "tensor_parallel_degree"),
        lambda a: a.sequence_parallel and a.tensor_parallel_degree > 1 and _rows_left(a) != 0,
        _rows_message,
    ),
    Rule(
        ("expert_min_capacity", "expert_max_capacity"),
        lambda a: (a.expert_min_capacity or 0) > (a.expert_max_capacity or 2**32),
        lambda a: (
            f"expert_min_capacity {a.expert_min_capacity} is above expert_max_capacity {a.expert_max_capacity}; "
            "lower the one or raise the other"
        ),
    ),
]

LAYOUT_REMARKS: List[Rule] = [
    Rule(
        ("sequence_parallel", "tensor_parallel_degree"),
        lambda a: a.sequence_parallel and a.tensor_parallel_degree <= 1,
        "sequence_parallel changes nothing: it belongs to a tensor_parallel_degree above 1.",
    ),
    Rule(
        ("sharding", "sharding_parallel_degree"),
        lambda a: bool(a.sharding) and a.mesh.sharding == 1,
        lambda a: f"sharding {a.sharding} changes nothing: its shares would go to one process ({a.mesh}).",
    ),
    Rule(
        ("gradient_accumulation_steps", "pipeline_parallel_degree"),
        lambda a: a.train_enabled and a.gradient_accumulation_steps < a.mesh.pp,
        lambda a: (
            f"gradient_accumulation_steps {a.gradient_accumulation_steps} is below pipeline_parallel_degree "
            f"{a.mesh.pp}: at no time do all stages of the pipeline work."
        ),
    ),
]


def layout_problems(view: View) -> List[Problem]:
    """What is wrong with the degrees themselves, given the number of processes."""
    return degree_problems(view.degrees, view.world_size) if "tensor_parallel_degree" in view.fields else []
