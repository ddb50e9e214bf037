"""From `input_dir` (a folder, a prefix, "w1 prefix1 w2 prefix2 ..." or a blend file) to prefixes, and their checks."""

from __future__ import annotations

import os
from typing import List, Optional, Sequence, Tuple, Union

from paddlenlp.data.blend_file import is_blend_file, read_blend_file
from paddlenlp.data.indexed_dataset import make_dataset
from paddlenlp.data.sidecar import read_sidecar
from paddlenlp.data.token_ids import check_token_ids
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.log import logger

_SUFFIXES = ("_idx.npz", ".idx")


def find_data_prefixes(input_dir: str) -> Tuple[Optional[List[float]], List[str]]:
    """Weights (None for a single dataset) and prefixes that `input_dir` names.

    A folder stands for every dataset in it, sorted by name, weight 1 each. A prefix keeps the folder as written, since
    its text is part of the name of the index cache.

    Raises:
        UsageError: no such folder, nothing in it, or an odd or malformed list of pairs.
    """
    if os.path.isdir(input_dir):
        prefixes = prefixes_in(input_dir)
        if len(prefixes) == 1:
            return None, prefixes
        logger.info("You are using multi-dataset:")
        for prefix in prefixes:
            logger.info(f"    > set weight of {prefix} dataset to 1.0")
        return [1.0] * len(prefixes), prefixes
    if any(os.path.isfile(input_dir + suffix) for suffix in _SUFFIXES):
        return None, [input_dir]
    if is_blend_file(input_dir):
        return read_blend_file(input_dir)
    words = input_dir.split()
    if len(words) < 2:
        raise UsageError(
            f"input_dir {input_dir!r} is not a folder and {input_dir}.idx does not exist. Expected a folder with .bin "
            'and .idx files, "weight1 prefix1 weight2 prefix2 ..." or a .json that describes a blend. To make data: '
            "llm/tools/create_pretraining_data.py."
        )
    return _parse_pairs(input_dir, words)


def prefixes_in(folder: str) -> List[str]:
    """Prefixes of the datasets in `folder`, sorted by name.

    Raises:
        UsageError: there are none.
    """
    found = set()
    for name in os.listdir(folder):
        for suffix in _SUFFIXES:
            if name.endswith(suffix) and os.path.isfile(os.path.join(folder, name)):
                found.add(os.path.join(folder, name[: -len(suffix)]))
                break
    if not found:
        raise UsageError(
            f"input_dir {folder!r} holds no dataset: expected at least one pair x.bin + x.idx (or x_ids.npy + "
            f"x_idx.npz), found {len(os.listdir(folder))} other entries. Make one with "
            "llm/tools/create_pretraining_data.py."
        )
    return sorted(found)


def _parse_pairs(text: str, words: List[str]) -> Tuple[List[float], List[str]]:
    if len(words) % 2:
        raise UsageError(
            f"input_dir {text!r} has {len(words)} parts. Expected pairs: a weight, then a prefix, for each dataset."
        )
    try:
        weights = [float(word) for word in words[::2]]
    except ValueError as error:
        raise UsageError(f"input_dir {text!r}: {error}. Expected a weight, then a prefix, for each dataset.") from None
    if not all(0 < weight < float("inf") for weight in weights):
        raise UsageError(f"input_dir {text!r}: weights are {weights}. Expected numbers above 0.")
    return weights, words[1::2]


def get_train_data_file(input_dir: str) -> List[Union[float, str]]:
    """`input_dir` as the reference's list: `[prefix]`, or `[weight1, prefix1, weight2, prefix2, ...]`."""
    weights, prefixes = find_data_prefixes(input_dir)
    if weights is None:
        return list(prefixes)
    return [part for pair in zip(weights, prefixes) for part in pair]


def check_data(
    prefixes: Sequence[str],
    data_impl: str = "mmap",
    *,
    vocab_size: Optional[int] = None,
    tokenizer_sha256: Optional[str] = None,
) -> None:
    """Open every dataset, check its files, and that its token ids are below `vocab_size` (when given).

    Data made with another tokenizer than `tokenizer_sha256` (as its sidecar says) is warned about.

    Raises:
        UsageError: one error that lists the problems of all datasets.
    """
    problems = []
    for prefix in prefixes:
        try:
            store = make_dataset(prefix, data_impl)
            if vocab_size is not None:
                check_token_ids(store, vocab_size)
            _compare_tokenizer(prefix, tokenizer_sha256)
        except UsageError as error:
            problems.append(str(error))
    if problems:
        raise UsageError("\n".join(problems))


def _compare_tokenizer(prefix: str, tokenizer_sha256: Optional[str]) -> None:
    recorded = (read_sidecar(prefix) or {}).get("tokenizer_sha256")
    if recorded and tokenizer_sha256 and recorded != tokenizer_sha256:
        logger.warning(
            f"{prefix} was made with another tokenizer (sha256 {recorded[:12]}) than the one given "
            f"({tokenizer_sha256[:12]}): token ids may mean something else."
        )
