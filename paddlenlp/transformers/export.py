"""Writing a model's folder, in the native or in the Hugging Face format."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, Tuple, Union

import numpy as np

from paddlenlp.parallel.assemble import Assembly
from paddlenlp.parallel.catalogue import Whole
from paddlenlp.parallel.holdings import stage_order, weight_parts
from paddlenlp.transformers.conversion_utils import hf_name
from paddlenlp.transformers.hub import WEIGHTS, WEIGHTS_INDEX
from paddlenlp.utils.disk import write_failed
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.files import atomic_write_json
from paddlenlp.utils.tensor_writer import LazyTensor, tensor_bytes, write_shards, write_tensor_file

GENERATION_CONFIG = "generation_config.json"
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def save_model(model: Any, folder: Path, max_shard_size: Union[int, str] = "10GB", save_to_hf: bool = False) -> None:
    """Write weights, `config.json` and `generation_config.json`; see `PretrainedModel.save_pretrained`."""
    most = parse_size(max_shard_size)
    weights = Assembly({"model": weight_parts(model)}, stage_order(model))

    def write() -> None:
        try:
            _write_folder(model, weights, folder, most, save_to_hf)
        except OSError as error:
            needed = sum(map(tensor_bytes, weights.tensors["model"].values()))
            raise write_failed(folder, error, needed, "the model") from error

    weights.write(write)


def _write_folder(model: Any, weights: Assembly, folder: Path, most: int, save_to_hf: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder, save_to_hf=save_to_hf)
    atomic_write_json(folder / GENERATION_CONFIG, generation_config(model), sort_keys=True)
    if not save_to_hf:
        write_shards(folder, "model", weights.tensors["model"], max_shard_bytes=most)
        (folder / WEIGHTS).unlink(missing_ok=True)
        return
    made = weights.tensors["model"]
    write_hf(
        folder, dict(hf_tensors(model, ((whole, made[whole.name].make) for whole in weights.wholes("model")))), most
    )


def write_hf(folder: Path, tensors: Dict[str, LazyTensor], most: int) -> None:
    """One `model.safetensors` where it fits, as transformers writes it, else shards with an index."""
    metadata = {"format": "pt"}
    if sum(map(tensor_bytes, tensors.values())) > most:
        write_shards(folder, "model", tensors, max_shard_bytes=most, metadata=metadata)
        (folder / WEIGHTS).unlink(missing_ok=True)
        return
    write_tensor_file(folder / WEIGHTS, tensors, metadata)
    for stale in (folder / WEIGHTS_INDEX, *folder.glob("model-[0-9]*-of-[0-9]*.safetensors")):
        stale.unlink(missing_ok=True)


def hf_tensors(model: Any, wholes: Iterable[Tuple[Whole, Callable[[], Any]]]) -> Iterator[Tuple[str, LazyTensor]]:
    """Every parameter under its Hugging Face name, matrices [out, in]; made when written. Fused ones are stored as
    their parts, but for those in `model.hf_fused`.

    Args:
        wholes: the parameters of `model`, each with what makes it: a Paddle tensor or array in the model's shape.
    """
    for whole, make in wholes:
        fusion = None if whole.fusion is None or whole.fusion.name in model.hf_fused else whole.fusion
        parts = None if fusion is None else fusion.part_names(whole.name)
        if fusion is None or parts is None:
            yield hf_name(model, whole.name), _stored(whole.shape, whole, partial(_turned, make, whole.transposed))
            continue
        halves = _Separated(make, whole)
        for index, (part, size) in enumerate(zip(parts, fusion.sizes)):
            yield hf_name(model, part), _stored((*whole.shape[:-1], size), whole, partial(halves.take, index))


class _Separated:
    """The parts of a fused tensor, which is made once; each is let go when it has been taken."""

    def __init__(self, make: Callable[[], Any], whole: Whole) -> None:
        self._make, self._whole = make, whole
        self._waiting: Dict[int, np.ndarray] = {}

    def take(self, index: int) -> np.ndarray:
        """Part number `index`."""
        if index not in self._waiting:
            assert self._whole.fusion is not None
            self._waiting = dict(enumerate(self._whole.fusion.separate(_array(self._make()))))
        part = self._waiting.pop(index)
        return part.T if self._whole.transposed else part


def _stored(shape: Tuple[int, ...], whole: Whole, make: Callable[[], Any]) -> LazyTensor:
    return LazyTensor(shape[::-1] if whole.transposed else shape, whole.dtype, make)


def _turned(make: Callable[[], Any], transposed: bool) -> Any:
    return _array(make()).T if transposed else make()


def _array(tensor: Any) -> np.ndarray:
    return tensor if isinstance(tensor, np.ndarray) else tensor.numpy()


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
