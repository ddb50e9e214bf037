"""Writing a model's folder, in the native or in the Hugging Face format."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any, Dict, Iterator, Tuple, Union

from paddlenlp.transformers.conversion_utils import hf_name
from paddlenlp.transformers.hub import WEIGHTS, WEIGHTS_INDEX
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.files import atomic_write_json
from paddlenlp.utils.tensor_writer import LazyTensor, write_shards, write_tensor_file

GENERATION_CONFIG = "generation_config.json"
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def save_model(model: Any, folder: Path, max_shard_size: Union[int, str] = "10GB", save_to_hf: bool = False) -> None:
    """Write weights, `config.json` and `generation_config.json`; see `PretrainedModel.save_pretrained`."""
    most = parse_size(max_shard_size)
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder, save_to_hf=save_to_hf)
    atomic_write_json(folder / GENERATION_CONFIG, generation_config(model), sort_keys=True)
    if not save_to_hf:
        write_shards(folder, "model", dict(model.named_parameters()), max_shard_bytes=most)
        (folder / WEIGHTS).unlink(missing_ok=True)
        return
    _write_hf(folder, dict(hf_tensors(model)), most)


def _write_hf(folder: Path, tensors: Dict[str, LazyTensor], most: int) -> None:
    """One `model.safetensors` where it fits, as transformers writes it, else shards with an index."""
    metadata = {"format": "pt"}
    if sum(_bytes(tensor) for tensor in tensors.values()) > most:
        write_shards(folder, "model", tensors, max_shard_bytes=most, metadata=metadata)
        (folder / WEIGHTS).unlink(missing_ok=True)
        return
    write_tensor_file(folder / WEIGHTS, tensors, metadata)
    for stale in (folder / WEIGHTS_INDEX, *folder.glob("model-[0-9]*-of-[0-9]*.safetensors")):
        stale.unlink(missing_ok=True)


def hf_tensors(model: Any) -> Iterator[Tuple[str, LazyTensor]]:
    """Every parameter under its Hugging Face name, fused ones as their parts, matrices [out, in]; made when written."""
    for name, param in model.named_parameters():
        dtype, flip = str(param.dtype).replace("paddle.", ""), getattr(param, "transposed", False)
        fusion: Any = getattr(param, "fusion", None)
        parts = fusion.part_names(name) if fusion is not None else None
        if parts is None:
            shape = tuple(param.shape)
            yield hf_name(model, name), LazyTensor(shape[::-1] if flip else shape, dtype, partial(_whole, param, flip))
            continue
        for index, (part, size) in enumerate(zip(parts, fusion.sizes)):
            shape = (*param.shape[:-1], size)
            make = partial(_part, param, index, flip)
            yield hf_name(model, part), LazyTensor(shape[::-1] if flip else shape, dtype, make)


def _whole(param: Any, flip: bool) -> Any:
    return param.detach().numpy().T if flip else param.detach()


def _part(param: Any, index: int, flip: bool) -> Any:
    part = param.fusion.separate(param.detach().numpy())[index]
    return part.T if flip else part


def _bytes(tensor: LazyTensor) -> int:
    width = 4 if tensor.dtype == "float32" else 2
    for side in tensor.shape:
        width *= side
    return width


def generation_config(model: Any) -> Dict[str, Any]:
    """What the source folder said about generating, else the special tokens of the configuration."""
    if model.generation_config is not None:
        return model.generation_config
    tokens = {name: model.config.get(name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return {"_from_model_config": True, **{name: token for name, token in tokens.items() if token is not None}}


def parse_size(size: Union[int, str]) -> int:
    """Bytes of "10GB" (powers of ten), "512MiB" (powers of two) or a plain number.

    Raises:
        UsageError: it is none of these, or not positive.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(size))
    size_in_bytes = int(float(match[1]) * UNITS.get(match[2].upper(), 0)) if match else 0
    if size_in_bytes <= 0:
        raise UsageError(f"max_shard_size={size!r}: expected a size such as 10GB, 500MB or 2GiB")
    return size_in_bytes
