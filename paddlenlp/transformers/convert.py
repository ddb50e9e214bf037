"""From one format of a model's folder to the other, tensor by tensor: the model is never in memory, and no GPU is used.

What a stored tensor becomes follows from the parameters of a model without values (`sketch`), as in reading and saving.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple, Union

import numpy as np
import paddle
from tqdm import tqdm

from paddlenlp.parallel.catalogue import Whole, whole_of
from paddlenlp.parallel.holdings import stage_order
from paddlenlp.parallel.random import skip_initialisation
from paddlenlp.transformers.auto.configuration import AutoConfig
from paddlenlp.transformers.auto.modeling import AutoModelForCausalLM
from paddlenlp.transformers.configuration_utils import CONFIG_NAME, PretrainedConfig, read_json
from paddlenlp.transformers.conversion_utils import DTYPE_CODES, Source, StoredWeights, plan_weights, whole_value
from paddlenlp.transformers.export import GENERATION_CONFIG, generation_config, hf_tensors, parse_size, write_hf
from paddlenlp.transformers.hub import WEIGHTS, WEIGHTS_INDEX
from paddlenlp.transformers.tokenizer_utils import read_folder
from paddlenlp.utils.disk import free_bytes, write_failed
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.files import atomic_path, atomic_write_json, fsync_folder
from paddlenlp.utils.host_memory import as_values
from paddlenlp.utils.tensor_files import TensorFiles
from paddlenlp.utils.tensor_writer import LazyTensor, tensor_bytes, write_shards

Make = Callable[[], np.ndarray]

FORMATS = ("hf", "native")
_BLOCK = 1 << 20
_SPARE_BYTES = 1 << 22
"""Room for the small files beside the weights."""


class Conversion(NamedTuple):
    """What a conversion came to: parameters and bytes of weights written, stored tensors that are no parameters."""

    parameters: int
    size: int
    left_out: List[str]


class _Plan(NamedTuple):
    """A model without values, and what makes each of its parameters, in the order in which they are written."""

    model: Any
    wholes: List[Tuple[Whole, Make]]
    left_out: List[str]


def sketch(config: PretrainedConfig, dtype: str) -> Any:
    """The model of `config`, whole, with parameters that say all about themselves and hold no values."""
    with paddle.LazyGuard(), skip_initialisation():
        return AutoModelForCausalLM.from_config(config, dtype)


def convert_model(
    source: Union[str, Path],
    target: Union[str, Path],
    form: str,
    dtype: Optional[str] = None,
    max_shard_size: Union[int, str] = "10GB",
) -> Conversion:
    """Write the model of folder `source` into folder `target`, which appears whole or not at all.

    With the weights come the configuration, the generation configuration and the tokenizer's files. `source` is only
    read. Of the weights, two copies of the largest tensor are in memory at most; of a fused one that is to be taken
    apart, or the reverse, three.

    Args:
        source: a checkpoint or a model folder, in either format.
        target: must be absent or empty, and not within `source`.
        form: "hf" or "native".
        dtype: to convert the weights to; what the model keeps in float32 stays that. float32 takes master weights
            where `source` has them. None: as stored, bit for bit.
        max_shard_size: as of `PretrainedModel.save_pretrained`.

    Raises:
        UsageError: `source` holds no whole model, or `target` cannot be written.
    """
    source, target = Path(source), Path(target)
    most = parse_size(max_shard_size)
    _check_folders(source, target)
    plan = _plan(_weights(source), dtype)
    native = {whole.name: LazyTensor(whole.shape, whole.dtype, make) for whole, make in plan.wholes}
    tensors = native if form == "native" else dict(hf_tensors(plan.model, plan.wholes))
    size = sum(map(tensor_bytes, tensors.values()))
    _check_room(target, size)
    with _appearing(target, size) as folder, tqdm(total=size, unit="B", unit_scale=True, disable=None) as bar:
        shown = {name: _reporting(tensor, bar) for name, tensor in tensors.items()}
        if form == "native":
            write_shards(folder, "model", shown, max_shard_bytes=most)
        else:
            write_hf(folder, shown, most)
        _write_rest(plan.model, source, folder, form)
    return Conversion(len(native), size, plan.left_out)


def _weights(folder: Path) -> StoredWeights:
    """Those of the model; of a checkpoint that has only master weights, as PaddleNLP can write it, these."""
    there = any((folder / name).is_file() for name in (WEIGHTS, WEIGHTS_INDEX))
    masters = not there and (folder / "master_weights.safetensors.index.json").is_file()
    return StoredWeights(folder, "master_weights" if masters else "model")


def _plan(stored: StoredWeights, dtype: Optional[str]) -> _Plan:
    config = AutoConfig.from_pretrained(stored.folder)
    model = sketch(config, dtype or stored.stored_dtype())
    generation = stored.folder / GENERATION_CONFIG
    model.generation_config = read_json(generation) if generation.is_file() else None
    out_first = stored.out_first(model)
    sources, new_head = plan_weights(model, stored, out_first)
    if new_head:
        raise UsageError(
            f"{stored.folder}: the stored model has no head over the vocabulary ({', '.join(new_head)}), so it "
            "can't be converted. A training run can start from it with model_name_or_path; its head then starts anew."
        )
    params = dict(model.named_parameters())
    masters = _masters(stored.folder, params) if dtype == "float32" else {}
    wholes = []
    for name in sorted(sources, key=stage_order(model)):
        param, source = params[name], sources[name]
        kind = _dtype_of(param) if dtype else _stored_kind(source, stored)
        make: Make = partial(_value, param, source, stored, out_first, kind)
        wholes.append((whole_of(name, param, kind), masters.get(name, make)))
    used = {name for source in sources.values() for name in source.names}
    return _Plan(model, wholes, [name for name in stored if name not in used])


def _masters(folder: Path, params: Mapping[str, Any]) -> Dict[str, Make]:
    """What makes each float32 master weight of a checkpoint; empty where it has none.

    Raises:
        UsageError: they are those of another model, or not merged into whole tensors.
    """
    if (folder / "master_weights.safetensors.index.json").is_file():
        found = TensorFiles(folder, "master_weights")
        odd = [name for name in found if name not in params or found.shape(name) != tuple(params[name].whole_shape)]
        if odd:
            raise UsageError(f"{folder}: the master weights are not those of this model: {', '.join(odd[:5])}.")
        return {name: partial(found.read, name) for name in found}
    apart = sorted(path.name for path in folder.glob("master_weights*.safetensors"))
    if apart:
        raise UsageError(
            f"{folder}: the master weights lie in files of each rank ({apart[0]} ...), saved with "
            "ignore_merge_optimizer. Leave out dtype to convert the weights as they are stored, or resume without that "
            "word and convert the next checkpoint."
        )
    return {}


def _stored_kind(source: Source, stored: StoredWeights) -> str:
    kinds = {DTYPE_CODES[stored.dtype(name)] for name in source.names}
    return kinds.pop() if len(kinds) == 1 else "float32"


def _dtype_of(param: Any) -> str:
    return str(param.dtype).rpartition(".")[2]


def _value(param: Any, source: Source, stored: StoredWeights, out_first: bool, kind: str) -> np.ndarray:
    array, code = whole_value(param, source, stored, out_first)
    return array if DTYPE_CODES[code] == kind else _converted(array, code, kind)


def _converted(array: np.ndarray, code: str, kind: str) -> np.ndarray:
    """The values of `array`, stored as `code`, in type `kind`; some at a time, for the intermediate ones are wide."""
    order: Any = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
    flat = array.reshape(-1, order=order)
    found = np.empty(flat.shape, np.uint16 if kind == "bfloat16" else kind)
    for start in range(0, len(flat), _BLOCK):
        found[start : start + _BLOCK] = as_values(flat[start : start + _BLOCK], code, getattr(paddle, kind))
    return found.reshape(array.shape, order=order)


def _reporting(tensor: LazyTensor, bar: Any) -> LazyTensor:
    def make() -> Any:
        made = tensor.make()
        bar.update(tensor_bytes(tensor))
        return made

    return LazyTensor(tensor.shape, tensor.dtype, make)


def _write_rest(model: Any, source: Path, folder: Path, form: str) -> None:
    model.config.save_pretrained(folder, save_to_hf=form == "hf")
    atomic_write_json(folder / GENERATION_CONFIG, generation_config(model), sort_keys=True)
    for name, content in read_folder(source).items():
        if name != CONFIG_NAME:
            with atomic_path(folder / name) as file:
                file.write_bytes(content)


def _check_folders(source: Path, target: Path) -> None:
    if not source.is_dir():
        raise UsageError(
            f"{source}: no such folder. Give a checkpoint, or a folder with config.json and *.safetensors."
        )
    inside, outside = target.resolve(), source.resolve()
    if inside == outside or outside in inside.parents:
        raise UsageError(f"{target} is within {source}, which is only read. Give another folder to write to.")
    if re.fullmatch(r"checkpoint-\d+", inside.name):
        raise UsageError(f"{target}: training takes folders of such names for checkpoints. Give another name.")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target} is there already and not an empty folder. Give another one to write to.")


def _check_room(target: Path, size: int) -> None:
    needed, free = size + _SPARE_BYTES, free_bytes(target)
    if free < needed:
        raise UsageError(f"{target}: the weights need {needed:,} bytes, {free:,} are free. Choose another folder.")


@contextlib.contextmanager
def _appearing(target: Path, size: int) -> Iterator[Path]:
    """A folder beside `target` that takes its place when the block succeeds, and is removed when it does not."""
    hidden = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        hidden.mkdir(parents=True)
        yield hidden
        os.replace(hidden, target)
        fsync_folder(target.parent)
    except OSError as error:
        raise write_failed(target, error, size + _SPARE_BYTES) from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
