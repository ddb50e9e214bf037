"""What of a run's arguments decides its memory and its speed: one small value, of which a search makes thousands."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, FrozenSet, Optional, Tuple

from paddlenlp.parallel.mesh import Mesh
from paddlenlp.trainer.engine_args import FusedArguments

OFF = (False, "false", None)
"""Values of a flag of `FusedArguments` that turn it off."""

EVERY = frozenset(flag.name for flag in fields(FusedArguments))
"""The flags of `FusedArguments`, which are on where nobody turns them off."""


@dataclass(frozen=True)
class Layout:
    """How a model is spread over devices, and what each micro batch is.

    Attributes:
        mesh: sizes of the axes.
        chunks: parts of the model a pipeline rank holds (`virtual_pp_degree`).
        stage: of sharding, 0 for none.
        micro_batch: sequences of a micro batch (`per_device_train_batch_size`).
        accumulation: micro batches of a step.
        seq_length: tokens of a sequence.
        sequence_parallel: whether activations between layers are cut over the tensor-parallel ranks.
        recompute: None, or a granularity of `nn.recompute`.
        kept_layers, interval: decoder layers that keep their activations all the same; see `RecomputePolicy`.
        dtype: in which parameters are stored.
        compute: in which products are computed and what flows between layers is kept.
        master_grad: whether gradients are summed in float32 where parameters are stored in 16 bits.
        offload: whether optimizer state lies in host memory.
        kernels: the flags of `FusedArguments` that are on.
        bucket_bytes: of what gradients and parameters travel in.
    """

    mesh: Mesh = Mesh()
    chunks: int = 1
    stage: int = 0
    micro_batch: int = 1
    accumulation: int = 1
    seq_length: int = 2048
    sequence_parallel: bool = False
    recompute: Optional[str] = None
    kept_layers: Tuple[int, ...] = ()
    interval: int = 1
    dtype: str = "bfloat16"
    compute: str = "bfloat16"
    master_grad: bool = False
    offload: bool = False
    kernels: FrozenSet[str] = EVERY
    bucket_bytes: int = 32 << 20

    @staticmethod
    def from_args(args: Any, seq_length: int) -> Layout:
        """That of `TrainingArguments`."""
        return Layout(
            mesh=args.mesh,
            chunks=args.pipeline_chunks,
            stage=args.sharding_stage,
            micro_batch=args.per_device_train_batch_size,
            accumulation=args.gradient_accumulation_steps,
            seq_length=seq_length,
            sequence_parallel=args.sequence_parallel and args.mesh.tp > 1,
            recompute=args.recompute_granularity if args.recompute else None,
            kept_layers=tuple(args.no_recompute_layers or ()),
            interval=args.pp_recompute_interval,
            dtype=args.dtype,
            compute=args.amp_dtype or "float32",
            master_grad=args.effective_amp_master_grad,
            offload=args.sharding_offload,
            kernels=frozenset(flag for flag in EVERY if getattr(args, flag) not in OFF),
            bucket_bytes=args.bucket_bytes,
        )

    @property
    def flash(self) -> bool:
        """Whether flash attention is asked for."""
        return "use_flash_attention" in self.kernels

    @property
    def tokens(self) -> int:
        """Tokens of a micro batch that a rank of the pipeline works on: those of whole sequences over `sep` or `cp`."""
        return self.micro_batch * self.seq_length // self.mesh.sequence

    @property
    def global_tokens(self) -> int:
        """Tokens of a step, of all ranks."""
        return self.micro_batch * self.seq_length * self.accumulation * self.mesh.data

    @property
    def weight_bytes(self) -> int:
        """Of an element of the parameters."""
        return 4 if self.dtype == "float32" else 2

    @property
    def bytes(self) -> int:
        """Of an element of the activations."""
        return 4 if self.compute == "float32" else 2

    @property
    def gradient_bytes(self) -> int:
        """Of an element of the gradients that travel."""
        return 4 if self.master_grad else self.weight_bytes

    def recomputes(self, index: int) -> Optional[str]:
        """The granularity at which decoder layer `index` recomputes, or None: as `RecomputePolicy.of_layer`."""
        if self.recompute is None or index in self.kept_layers or not self.interval or index % self.interval:
            return None
        return self.recompute

    def with_(self, **changes: Any) -> Layout:
        """The same with some attributes changed."""
        return replace(self, **changes)

    def __str__(self) -> str:
        """Such as "tp8 pp16x2 dp64 stage1 sp mb1x32 full"."""
        mesh = self.mesh
        sizes = [("tp", mesh.tp), ("cp", mesh.cp), ("sep", mesh.sep), ("ep", mesh.ep), ("pp", mesh.pp)]
        words = [f"{name}{size}" for name, size in sizes if size > 1]
        if self.chunks > 1:
            words[-1] += f"x{self.chunks}"
        words += [f"dp{mesh.dp}"] if mesh.dp > 1 else []
        words += [f"sharding{mesh.sharding} stage{self.stage}"] if self.stage else []
        words += ["sp"] if self.sequence_parallel else []
        words.append(f"batch {self.micro_batch}x{self.accumulation}")
        return " ".join([*words, self.recompute or "no recompute"])
