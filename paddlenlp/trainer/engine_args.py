"""Arguments of how the mathematics is carried out: precision, recompute, fused operators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, List, Optional

from paddlenlp.nn.flags import WORDS

from .fields import acts, in_group, noted, refused
from .options import GRANULARITIES, OPT_LEVELS


def _fused(what: str) -> Any:
    """A flag of a fused operation."""
    return acts("auto", f"The fused operation for {what}.", choices=WORDS)


_PER_OPERATOR = "precision is set for whole parts of the model, not for single operators"


@in_group("precision")
@dataclass
class PrecisionArguments:
    """Number formats of training and evaluation."""

    bf16: bool = acts(False, "Compute in bfloat16. Not together with fp16.")
    fp16: bool = acts(False, "Compute in float16 with loss scaling. Not together with bf16.")
    fp16_opt_level: str = acts(
        "O1",
        "With bf16 or fp16: O1 keeps float32 parameters; O2 keeps low-precision parameters and float32 master weights; "
        "O0 turns low precision off.",
        choices=OPT_LEVELS,
    )
    amp_master_grad: bool = acts(False, "Accumulate gradients in float32 under O2.")
    scale_loss: float = acts(2**15, "First loss scale of fp16.", gt=0)
    bf16_full_eval: bool = acts(False, "Evaluate with all weights in bfloat16.")
    fp16_full_eval: bool = acts(False, "Evaluate with all weights in float16.")
    amp_custom_black_list: Optional[List[str]] = refused(
        None, "Operators that always compute in float32.", _PER_OPERATOR
    )
    amp_custom_white_list: Optional[List[str]] = refused(
        None, "Operators that always compute in low precision.", _PER_OPERATOR
    )


@in_group("recompute")
@dataclass
class RecomputeArguments:
    """Activations computed again in the backward pass, to save memory."""

    recompute: bool = acts(False, "Compute activations again in the backward pass instead of keeping them.")
    recompute_granularity: str = acts(
        "full",
        "What recompute covers: full (whole layers), full_attn (attention blocks) or core_attn (softmax(QK)V only).",
        choices=GRANULARITIES,
    )
    no_recompute_layers: Optional[List[int]] = acts(
        None, "Indices of layers (from 0) that keep their activations all the same. Default: none."
    )
    pp_recompute_interval: int = acts(1, "Recompute one layer in this many, counted from layer 0. 0: none.", ge=0)
    recompute_use_reentrant: bool = acts(
        False, "Recompute through a custom autograd function instead of saved-tensor hooks. The results are the same."
    )
    refined_recompute: str = refused(
        "",
        "Operators left out of recompute, with the number of layers.",
        "recompute is chosen by recompute_granularity only",
    )
    offload_recompute_inputs: bool = refused(
        False,
        "Keep the inputs of recomputed layers in host memory.",
        "moving activations to host memory is not available",
    )


@in_group("fused")
@dataclass
class FusedArguments:
    """Which operations may be fused ones: those of external_ops, and on a GPU Paddle's.

    A fused operation is used only after it has given the plain one's results on small inputs. auto: where it is there;
    true: the same, and the log says so where it is not; false: the toolkit's own operation; require: the run is refused
    where it is not there.
    """

    use_flash_attention: str = _fused("attention that never holds all scores")
    use_fused_rms_norm: str = _fused("RMSNorm")
    use_fused_rope: str = _fused("rotary positions")
    use_fused_swiglu: str = _fused("SwiGLU")
    use_fused_linear: str = _fused("products of rows with matrices")
    enable_linear_fused_grad_add: str = _fused("adding the weight gradients of micro batches")
    use_fused_linear_cross_entropy: str = _fused("the head and its loss, without keeping all logits")
    use_fused_embedding: str = _fused("the gradient of the embedding")
    use_fused_adamw: str = _fused("AdamW and the norm of the gradients")
    use_fused_dropout_add: bool = acts(False, "Use fused dropout and addition.")


@in_group("other")
@dataclass
class CompatibilityArguments:
    """Out of this toolkit's scope; here so that existing files load."""

    do_export: bool = refused(
        False, "Export the model for inference.", "export for inference is not part of pretraining"
    )
    to_static: Optional[bool] = refused(
        False, "Train the model as a static graph.", "training runs in dynamic mode only"
    )
    enable_auto_parallel: Optional[bool] = refused(
        False, "Use Paddle's automatic parallelism.", "layouts are set by degrees, not found automatically"
    )
    auto_parallel_resume_form_hybrid_parallel: Optional[bool] = refused(
        False, "Resume automatic parallelism from a hybrid checkpoint.", "automatic parallelism is not supported"
    )
    sharding_parallel_mesh_dimension: str = refused(
        "dp", "Mesh dimension of sharding under automatic parallelism.", "automatic parallelism is not supported"
    )
    past_index: int = refused(
        -1, "Index of past states in the model's output.", "no model here returns past states in training"
    )
    local_rank: int = noted(
        -1, "Rank of the process on its machine.", "ranks come from the launcher's environment variables"
    )
    ddp_find_unused_parameters: Optional[bool] = noted(
        None,
        "Look for parameters without gradients under data parallelism.",
        "every parameter of the models here gets one",
    )
