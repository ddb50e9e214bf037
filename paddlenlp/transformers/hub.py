"""From a model's name to a folder on this machine, through `huggingface_hub`: its cache, mirrors and resuming are used.

Only safetensors, JSON and tokenizer files are fetched; pickled weights never are.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any, List, NoReturn, Optional, Sequence, Union

from tqdm import tqdm

from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.files import parse_json

TOKENIZER_FILES = ("*.model", "*.tiktoken", "vocab.txt", "merges.txt", "vocab.bpe", "*.jinja")
SMALL_FILES = ("*.json", *TOKENIZER_FILES)
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def resolve_folder(name_or_dir: Union[str, Path], patterns: Optional[Sequence[str]] = None) -> Path:
    """The folder that holds a model: a local folder as it is, otherwise a download from the hub.

    A download goes into the cache of `huggingface_hub` (`HF_HOME`, `HF_HUB_CACHE`) and comes from `HF_ENDPOINT`, by
    default the public hub; what the cache has is not fetched again, and a broken connection resumes where it stopped.

    Args:
        name_or_dir: a folder, or a name on the hub such as "organisation/model".
        patterns: which files to fetch, such as ("config.json",); by default configuration, tokenizer and weights.

    Raises:
        UsageError: there is no such folder and no such model, or the hub cannot be reached; says what was tried.
    """
    folder = Path(name_or_dir).expanduser()
    if folder.is_dir():
        return folder
    name = str(name_or_dir)
    if folder.exists():
        raise UsageError(f"{name} is a file; give the folder that holds config.json and the weights")
    if not _HUB_NAME.fullmatch(name):
        raise UsageError(f"{name!r} is neither a folder on this machine nor a model name such as organisation/model")
    return _download(name, patterns)


def _download(name: str, patterns: Optional[Sequence[str]]) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise UsageError(
            f"{name!r} is not a folder on this machine, and the package huggingface_hub, which would download it, is "
            "not installed: pip install huggingface_hub, or give a folder"
        ) from None
    for library in ("httpx", "httpx2"):
        logging.getLogger(library).setLevel(logging.WARNING)  # Paddle shows INFO of all libraries: a line per request
    try:
        wanted = list(SMALL_FILES if patterns is None else patterns)
        folder = Path(snapshot_download(name, allow_patterns=wanted, tqdm_class=_Silent))
        if patterns is None:
            _download_weights(name, folder)
    except UsageError:
        raise
    except Exception as error:
        # The library passes on errors of several HTTP stacks without a common class.
        _explain(name, error)
    if not any(folder.iterdir()):
        raise UsageError(f"{name!r} on {_endpoint()} has none of the files {', '.join(wanted)}")
    return folder


def _download_weights(name: str, folder: Path) -> None:
    """Fetch the shards one by one; `folder` is the snapshot, whose own name is the revision."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for shard in tqdm(_shards(folder), desc="Downloading shards", mininterval=0):
        try:
            hf_hub_download(name, shard, revision=folder.name)
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError:
            raise UsageError(
                f"{name!r} on {_endpoint()} has no {shard}. Pickled weights (pytorch_model.bin, model_state.pdparams) "
                "are not read, since such a file can run any program; convert them to safetensors and give the folder"
            ) from None


def _shards(folder: Path) -> List[str]:
    """Names of the files with the weights of a model folder: those of its index, else the single file's."""
    index = folder / WEIGHTS_INDEX
    if not index.is_file():
        return [WEIGHTS]
    try:
        files = sorted(set(parse_json(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{index}: not an index of tensor files ({error!r})") from None
    strange = [file for file in files if Path(file).name != file or not file.endswith(".safetensors")]
    if strange:
        raise UsageError(f"{index}: names files that are not safetensors files beside it: {', '.join(strange)}")
    return files


class _Silent(tqdm):
    """A progress bar that is not shown, for the many small files."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.pop("name", None)
        super().__init__(*args, **{**kwargs, "disable": True})


def _endpoint() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT


def _explain(name: str, error: Exception) -> NoReturn:
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    if isinstance(error, GatedRepoError):
        found = "access to this model must be granted first: ask for it on its page, then log in with `hf auth login`"
    elif isinstance(error, RepositoryNotFoundError):
        found = "there is no such model (or it is private: log in with `hf auth login`); is the name right?"
    else:
        offline = "downloads are switched off (HF_HUB_OFFLINE=1); " if constants.HF_HUB_OFFLINE else ""
        found = f"{offline}{type(error).__name__}: {str(error).strip()}"
    raise UsageError(
        f"{name!r}: not a folder on this machine, not whole in the cache {constants.HF_HUB_CACHE}, and not had from "
        f"{_endpoint()}: {found}\nGive a folder that holds config.json and *.safetensors, or set HF_ENDPOINT."
    ) from error
