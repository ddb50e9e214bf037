"""Folders in the Hugging Face format, made of arrays, for the tests of reading and writing models."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Callable, Dict, Optional

import numpy as np
import pytest
import safetensors

SIZES = {
    "vocab_size": 48,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
}
CODES = {"float32": "F32", "float16": "F16", "uint16": "BF16", "int8": "I8"}


def hf_arrays(dtype: str = "float32", tied: bool = False, seed: int = 0) -> Dict[str, np.ndarray]:
    """The tensors of a tiny LLaMA under their Hugging Face names; bfloat16 as its bits."""
    random = np.random.default_rng(seed)
    hidden, width, kv = 16, 24, 8
    shapes = {"model.embed_tokens.weight": (48, hidden), "model.norm.weight": (hidden,)}
    if not tied:
        shapes["lm_head.weight"] = (48, hidden)
    for i in range(2):
        layer = f"model.layers.{i}"
        shapes.update(
            {
                f"{layer}.self_attn.q_proj.weight": (hidden, hidden),
                f"{layer}.self_attn.k_proj.weight": (kv, hidden),
                f"{layer}.self_attn.v_proj.weight": (kv, hidden),
                f"{layer}.self_attn.o_proj.weight": (hidden, hidden),
                f"{layer}.mlp.gate_proj.weight": (width, hidden),
                f"{layer}.mlp.up_proj.weight": (width, hidden),
                f"{layer}.mlp.down_proj.weight": (hidden, width),
                f"{layer}.input_layernorm.weight": (hidden,),
                f"{layer}.post_attention_layernorm.weight": (hidden,),
            }
        )
    arrays = {name: random.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
    if dtype == "bfloat16":
        return {name: (array.view(np.uint32) >> 16).astype(np.uint16) for name, array in arrays.items()}
    return {name: array.astype(dtype) for name, array in arrays.items()}


def write_file(path: Path, arrays: Dict[str, np.ndarray], metadata: Optional[Dict[str, str]]) -> None:
    """One safetensors file, written by hand: length of the header, header, tensors one after the other."""
    header: Dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    start = 0
    for name, array in arrays.items():
        span = [start, start + array.nbytes]
        header[name] = {"dtype": CODES[array.dtype.name], "shape": list(array.shape), "data_offsets": span}
        start = span[1]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(array.tobytes() for array in arrays.values()))


def write_folder(
    folder: Path,
    arrays: Dict[str, np.ndarray],
    shards: int = 1,
    metadata: Optional[Dict[str, str]] = None,
    config: Optional[Dict[str, Any]] = None,
) -> Path:
    """A model folder: config.json, and the arrays in one file or in shards with an index."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **SIZES, **(config or {})}
    (folder / "config.json").write_text(json.dumps(values))
    if shards == 1:
        write_file(folder / "model.safetensors", arrays, metadata)
        return folder
    names, weight_map = list(arrays), {}
    for number in range(shards):
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = names[number::shards]
        write_file(folder / file, {name: arrays[name] for name in part}, metadata)
        weight_map.update(dict.fromkeys(part, file))
    total = sum(array.nbytes for array in arrays.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def read_folder(folder: Path) -> Dict[str, np.ndarray]:
    """All tensors of a folder by the safetensors library: name -> (dtype, shape, bytes)."""
    found: Dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        for name, entry in safetensors.deserialize(path.read_bytes()):
            found[name] = (entry["dtype"], tuple(entry["shape"]), bytes(entry["data"]))
    return found


def state_of(folder: Path) -> Dict[str, Any]:
    """Name, time of change and hash of every file: equal before and after means that nothing was written."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files}


class Helpers:
    """The functions above, for tests (test modules are imported on their own and cannot import each other)."""

    hf_arrays: Callable = staticmethod(hf_arrays)
    write_folder: Callable = staticmethod(write_folder)
    read_folder: Callable = staticmethod(read_folder)
    state_of: Callable = staticmethod(state_of)
    sizes = SIZES


@pytest.fixture()
def hf() -> type:
    return Helpers
