"""Whether a model can be cut as the arguments ask: checked when its shape is known, before anything takes long."""

from __future__ import annotations

from typing import Any, Iterator, List

from paddlenlp.parallel.mesh import Mesh, divisors, either
from paddlenlp.utils.errors import UsageError

#: Names under which configurations give the width of an MLP's middle, whose columns are cut.
_WIDTHS = ("intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


def check_model_fits(config: Any, args: Any) -> None:
    """Check the sizes in `config` against the degrees in `args`.

    Raises:
        UsageError: something can't be shared out equally; all of it is listed.
    """
    mesh = args.mesh
    found: List[str] = [*_tensor_parallel(config, mesh), *_experts(config, mesh), *_layers(config, args)]
    if found:
        listed = "\n".join(f"  - {problem}" for problem in found)
        raise UsageError(f"The model can't be shared out over {mesh}:\n{listed}")


def _tensor_parallel(config: Any, mesh: Mesh) -> Iterator[str]:
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    ranks = mesh.tp * mesh.sep
    if heads % ranks:
        degrees = "tensor_parallel_degree" + (" x sep_parallel_degree" if mesh.sep > 1 else "")
        yield f"num_attention_heads {heads} is not a multiple of {degrees} = {ranks}; that may be {_ways(heads)}"
    if kv_heads % mesh.tp and mesh.tp % kv_heads:
        yield (
            f"num_key_value_heads {kv_heads} is neither a multiple nor a divisor of tensor_parallel_degree {mesh.tp}: "
            "a rank holds some key heads whole, or several ranks hold the same one"
        )
    sizes = [(name, getattr(config, name, None)) for name in ("vocab_size", *_WIDTHS)]
    for name, size in sizes:
        if size and size % mesh.tp:
            yield (
                f"{name} {size} is not a multiple of tensor_parallel_degree {mesh.tp}; use a degree that divides {size}"
            )


def number_of_experts(config: Any) -> int:
    """Experts of a layer, 0 where there are none."""
    return next((getattr(config, name) for name in _EXPERTS if getattr(config, name, None)), 0)


def _experts(config: Any, mesh: Mesh) -> Iterator[str]:
    experts = number_of_experts(config)
    if mesh.ep > 1 and not experts:
        yield f"there are no experts to deal out over {mesh.ep} ranks; leave out expert_parallel_degree"
    elif experts % mesh.ep:
        yield f"{experts} experts can't be dealt out evenly over {mesh.ep} ranks; that may be {_ways(experts)}"


def _layers(config: Any, args: Any) -> Iterator[str]:
    layers, stages = config.num_hidden_layers, args.mesh.pp
    chunks = args.pipeline_chunks if stages > 1 else 1
    if layers < stages * chunks:
        yield (
            f"num_hidden_layers {layers} is less than pipeline_parallel_degree {stages}"
            + (f" x virtual_pp_degree {chunks}" if chunks > 1 else "")
            + ": each part needs a layer"
        )


def _ways(size: int) -> str:
    return either(divisors(size))
