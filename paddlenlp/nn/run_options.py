"""From the arguments of a run to the policies that its layers read."""

from __future__ import annotations

from typing import Any

import paddle

from paddlenlp.parallel.pipeline import set_partial_exchange, set_virtual_stages
from paddlenlp.parallel.random import set_init_seed

from . import kernels
from .moe import set_capacity
from .precision import DType, Precision, set_precision
from .recompute import RecomputePolicy, set_recompute

UNLIMITED = 2**32
"""The default of `expert_max_capacity`: more than the tokens of any step."""


def configure_run(args: Any, model_args: Any = None) -> None:
    """Set precision, recompute, pipeline, experts, kernels and the seed of initial weights, before the model is built.

    Args:
        args: TrainingArguments.
        model_args: ModelArguments, which also ask for kernels.
    """
    set_precision(precision_of(args))
    set_recompute(
        RecomputePolicy(
            enabled=args.recompute,
            granularity=args.recompute_granularity,
            no_recompute_layers=tuple(args.no_recompute_layers or ()),
            interval=args.pp_recompute_interval,
            use_reentrant=args.recompute_use_reentrant,
        )
    )
    set_partial_exchange(args.partial_send_recv)
    set_virtual_stages(args.pipeline_chunks)
    most = args.expert_max_capacity or UNLIMITED
    set_capacity(most if most < UNLIMITED else None, args.expert_min_capacity or 1)
    set_init_seed(args.seed)
    kernels.configure(args, model_args)


def precision_of(args: Any) -> Precision:
    """The policy that `args` ask for, on the device Paddle computes on."""
    compute: DType = args.amp_dtype or "float32"
    grad: DType = "float32" if args.amp_master_grad or args.dtype == "float32" else args.dtype
    emulated = compute != "float32" and paddle.get_device().startswith("cpu")
    return Precision(args.dtype, compute, grad, emulated)
