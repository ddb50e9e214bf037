"""From data prefixes to the train, valid and test datasets of a pretraining run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import List, Optional, Sequence, Tuple, Union

import numpy as np

from paddlenlp.data.blendable_dataset import BlendableDataset
from paddlenlp.data.causal_dataset import GPTDataset, index_folders
from paddlenlp.data.index_cache import is_index_builder
from paddlenlp.data.indexed_dataset import make_dataset
from paddlenlp.data.splits import SPLIT_NAMES, empty_split, plain_sum, print_split, print_target_sizes, split_bounds
from paddlenlp.data.token_store import TokenStore
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.log import logger

Dataset = Union[GPTDataset, BlendableDataset]


def build_train_valid_test_datasets(
    data_prefix: Sequence[Union[str, float]],
    data_impl: str,
    splits_string: str,
    train_val_test_num_samples: Sequence[int],
    seq_length: int,
    seed: int,
    skip_warmup: bool = True,
    *,
    share_folder: bool = False,
    data_cache_path: Optional[str] = None,
    spare_cache_path: Optional[str] = None,
    need_data: bool = True,
    is_builder: Optional[bool] = None,
    stable_order: bool = False,
) -> Tuple[Optional[Dataset], Optional[Dataset], Optional[Dataset]]:
    """The three datasets; items are `{"text": int64 [seq_length + 1]}`, `len` is at least the number asked for.

    Args:
        data_prefix: `[prefix]`, or `[weight1, prefix1, weight2, prefix2, ...]` (see `get_train_data_file`).
        data_impl: "mmap" or "lazy".
        splits_string: shares of train, valid and test, "949,50,1".
        train_val_test_num_samples: samples wanted of each split; 0 gives None for a split that is not used.
        seq_length: inputs of a sample; it has one token more.
        seed: of the order of documents and samples.
        skip_warmup: False reads the data once first, to have it in the page cache.
        share_folder: all machines see the same data folder, so that only the first rank of all builds the index.
        data_cache_path: folder for the index, instead of `index-cache` beside the data.
        spare_cache_path: folder for the index where that one can't be written to.
        need_data: False for a process that only may have to build the index; it gets three Nones.
        is_builder: whether this process builds the index; None decides by rank and `share_folder`.
        stable_order: what a dataset gives does not change, but in length, when more samples are asked for or another
            dataset comes to the blend; see `GPTDataset`.

    Raises:
        UsageError: broken data, a split that is wanted but empty, or an index that cannot be written.
    """
    weights, prefixes = _weights_and_prefixes(data_prefix)
    is_builder = is_index_builder(share_folder) if is_builder is None else is_builder
    if not need_data and not is_builder:
        return None, None, None
    print_target_sizes(train_val_test_num_samples)
    sources = _open_all(prefixes, data_impl, skip_warmup, splits_string)
    order = _Order(seq_length, seed, stable_order)
    split = _SplitBuilder(sources, weights, splits_string, order, data_cache_path, spare_cache_path, is_builder)
    train, valid, test = (split.build(number, wanted) for number, wanted in enumerate(train_val_test_num_samples))
    return (train, valid, test) if need_data else (None, None, None)


def written_folders(data_prefix: Sequence[Union[str, float]], data_cache_path: Optional[str]) -> List[str]:
    """The folders to which `build_train_valid_test_datasets` writes the index if it is not there."""
    _, prefixes = _weights_and_prefixes(data_prefix)
    return list(dict.fromkeys(index_folders(prefix, data_cache_path)[-1] for prefix in prefixes))


def _weights_and_prefixes(data_prefix: Sequence[Union[str, float]]) -> Tuple[Optional[List[float]], List[str]]:
    if len(data_prefix) == 1:
        return None, [str(data_prefix[0])]
    if not data_prefix or len(data_prefix) % 2:
        raise UsageError(f"data_prefix is {list(data_prefix)}. Expected one prefix, or pairs of weight and prefix.")
    return [float(weight) for weight in data_prefix[::2]], [str(prefix).strip() for prefix in data_prefix[1::2]]


@dataclass(frozen=True)
class _Source:
    """One opened dataset and the boundaries of its splits."""

    prefix: str
    store: TokenStore
    bounds: List[int]

    def documents(self, split: int) -> range:
        return range(self.bounds[split], self.bounds[split + 1])


def _open_all(prefixes: Sequence[str], data_impl: str, skip_warmup: bool, splits_string: str) -> List[_Source]:
    sources = []
    for prefix in prefixes:
        store = make_dataset(prefix, data_impl, skip_warmup)
        sources.append(_Source(prefix, store, split_bounds(splits_string, len(store))))
        print_split(sources[-1].bounds)
    return sources


@dataclass(frozen=True)
class _Order:
    """How documents become a row of samples."""

    seq_length: int
    seed: int
    stable: bool


@dataclass(frozen=True)
class _SplitBuilder:
    sources: List[_Source]
    weights: Optional[List[float]]
    splits_string: str
    order: _Order
    data_cache_path: Optional[str]
    spare_cache_path: Optional[str]
    is_builder: bool

    def build(self, split: int, wanted: int) -> Optional[Dataset]:
        """Split number `split` with `wanted` samples; None when none are wanted."""
        if wanted <= 0:
            return None
        if self.weights is None:
            return self._single(self._require(self.sources, split, wanted)[0], split, wanted)
        kept = self._require(self.sources, split, wanted)
        weights = [weight for weight, source in zip(self.weights, self.sources) if source in kept]
        if len(kept) < len(self.sources):
            dropped = ", ".join(source.prefix for source in self.sources if source not in kept)
            logger.warning(
                f"No documents in split {SPLIT_NAMES[split]!r} ({self.splits_string}) of {dropped}: left out of that "
                "split, the weights of the others are scaled up."
            )
        total = plain_sum(weights)
        weights = [weight / total for weight in weights]
        datasets = [
            self._single(source, split, math.ceil(wanted * weight * 1.005) + 20)
            for source, weight in zip(kept, weights)
        ]
        blend = BlendableDataset(
            datasets, weights, wanted, data_cache_path=self.data_cache_path, is_builder=self.is_builder
        )
        _print_shares(SPLIT_NAMES[split], blend, [source.prefix for source in kept])
        return blend

    def _require(self, sources: List[_Source], split: int, wanted: int) -> List[_Source]:
        """The sources that have documents in `split`: at least one."""
        kept = [source for source in sources if source.documents(split)]
        if not kept:
            prefixes = ", ".join(source.prefix for source in sources)
            sequences = sum(len(source.store) for source in sources)
            raise empty_split(SPLIT_NAMES[split], prefixes, self.splits_string, sequences, wanted)
        return kept

    def _single(self, source: _Source, split: int, wanted: int) -> GPTDataset:
        return GPTDataset(
            SPLIT_NAMES[split],
            source.prefix,
            source.documents(split),
            source.store,
            self.splits_string,
            wanted,
            self.order.seq_length,
            self.order.seed,
            data_cache_path=self.data_cache_path,
            spare_cache_path=self.spare_cache_path,
            is_builder=self.is_builder,
            stable_order=self.order.stable,
        )


def _print_shares(split: str, blend: BlendableDataset, prefixes: List[str]) -> None:
    """What each dataset gives to the blend, and how often it is read for that."""
    taken = np.bincount(blend.dataset_index, minlength=len(prefixes))
    logger.info(f"Blend of the {split} split, {len(blend):,} samples:")
    for prefix, weight, count, dataset in zip(prefixes, blend.weights, taken, blend.datasets):
        epochs = count * dataset.seq_length / dataset.plan.tokens
        share = f"{100 * count / len(blend):.3f} % (weight {100 * weight:.3f} %)"
        logger.info(f"    > {prefix}: {count:,} samples, {share}, {epochs:.2f} epochs of its tokens")
