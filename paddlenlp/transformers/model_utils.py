"""What every model can do beside computing: be made from a configuration, read from a folder, and be written to one."""

from __future__ import annotations

import contextlib
import copy
from pathlib import Path
from typing import Any, ClassVar, Dict, Iterator, List, Optional, Tuple, Type, TypeVar, Union

import paddle
from paddle import nn

from paddlenlp.transformers.configuration_utils import PretrainedConfig, read_json
from paddlenlp.utils.errors import UsageError

DTYPES = ("float32", "float16", "bfloat16")
Model = TypeVar("Model", bound="PretrainedModel")


class PretrainedModel(nn.Layer):
    """A `paddle.nn.Layer` with a `config`. Subclasses take the configuration as their only argument.

    Class attributes a family sets:

    - `config_class`: its configuration class;
    - `base_model_prefix`: first part of its parameter names;
    - `hf_names`: (pattern, replacement) pairs for `re.sub` that turn a parameter's name into its Hugging Face name;
    - `hf_fused`: attribute names of the fused layers that the Hugging Face format keeps fused;
    - `hf_out_first`: whether the Hugging Face format keeps matrices [out, in];
    - `head_name`: name of the stage that is the head over the vocabulary, if there is one;
    - `other_names`: like `hf_names`, for names under which PaddleNLP stores the parameters. They are read, not written.
    """

    config_class: ClassVar[Type[PretrainedConfig]] = PretrainedConfig
    base_model_prefix: ClassVar[str] = ""
    hf_names: ClassVar[List[Tuple[str, str]]] = []
    hf_fused: ClassVar[Tuple[str, ...]] = ()
    hf_out_first: ClassVar[bool] = True
    other_names: ClassVar[List[Tuple[str, str]]] = []
    head_name: ClassVar[str] = ""
    generation_config: Optional[Dict[str, Any]] = None
    config: PretrainedConfig

    def is_spare(self, name: str) -> bool:
        """Whether a stored tensor, by its Hugging Face name, is no part of the model and known to be left over."""
        return False

    @classmethod
    def from_config(cls: Type[Model], config: PretrainedConfig, dtype: Optional[str] = "float32") -> Model:
        """A freshly initialised model whose parameters are created directly in `dtype`.

        The model keeps a copy of `config` in which `dtype` and `architectures` are set.

        Raises:
            UsageError: the configuration contradicts itself, or `dtype` is unknown.
        """
        config = copy.deepcopy(config)
        config.dtype = dtype or config.dtype or "float32"
        config.architectures = [cls.__name__[: -len("Pipe")] if cls.__name__.endswith("Pipe") else cls.__name__]
        config.validate()
        with default_dtype(config.dtype):
            return cls(config)  # type: ignore[arg-type]  # nn.Layer names its first argument otherwise

    @classmethod
    def from_pretrained(
        cls: Type[Model],
        name_or_dir: Union[str, Path],
        config: Optional[PretrainedConfig] = None,
        dtype: Optional[str] = None,
        **overrides: Any,
    ) -> Model:
        """A model with the weights of a folder, or of a model on the hub.

        The folder may have the native or the Hugging Face format; which one is told from its files. It is only read.

        Args:
            name_or_dir: a folder, or a name on the hub.
            config: configuration to use instead of the folder's.
            dtype: dtype of the parameters; by default the one the weights are stored in.
            overrides: configuration values that replace the folder's.

        Raises:
            UsageError: files are missing or unreadable, or tensors are missing, left over or of another shape.
        """
        from paddlenlp.parallel.agree import all_do
        from paddlenlp.parallel.random import skip_initialisation
        from paddlenlp.transformers.conversion_utils import StoredWeights, load_weights
        from paddlenlp.transformers.hub import resolve_folder

        if config is not None and overrides:
            raise TypeError(f"give either config or configuration values ({', '.join(overrides)}), not both")
        stored = all_do(lambda: StoredWeights(resolve_folder(name_or_dir)))
        folder = stored.folder
        config = cls.config_class.from_pretrained(folder, **overrides) if config is None else config
        with skip_initialisation():
            model = cls.from_config(config, dtype or stored.stored_dtype())
        load_weights(model, stored)
        generation = folder / "generation_config.json"
        model.generation_config = read_json(generation) if generation.is_file() else None
        return model

    def save_pretrained(
        self,
        save_directory: Union[str, Path],
        max_shard_size: Union[int, str] = "10GB",
        save_to_hf: bool = False,
        is_main_process: bool = True,
    ) -> None:
        """Write weights, `config.json` and `generation_config.json` into a folder: the same files in every layout.

        In a job of several processes all of them call this; rank 0 writes, and the others hand it what it lacks.

        Args:
            save_directory: made if it is not there.
            max_shard_size: largest size of one file, in bytes or as "500MB", "10GB" (powers of ten), "2GiB".
            save_to_hf: write the Hugging Face format (their names, matrices as [out, in]) instead of the native one.
            is_main_process: false: write nothing, where this process holds a model of its own. In a job whose processes
                share one it changes nothing.

        Raises:
            UsageError: a failed write; on all processes.
        """
        from paddlenlp.parallel.topology import topology
        from paddlenlp.transformers.export import save_model

        if is_main_process or topology().world.size > 1:
            save_model(self, Path(save_directory), max_shard_size, save_to_hf)


@contextlib.contextmanager
def default_dtype(dtype: str) -> Iterator[None]:
    """Parameters made inside are created in `dtype`."""
    if dtype not in DTYPES:
        raise UsageError(f"dtype={dtype!r} is not one of {', '.join(DTYPES)}")
    before = paddle.get_default_dtype()
    paddle.set_default_dtype(dtype)  # type: ignore[arg-type]
    try:
        yield
    finally:
        paddle.set_default_dtype(before)
