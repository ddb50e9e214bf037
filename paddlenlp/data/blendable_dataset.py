"""Several datasets read as one, in given proportions."""

from __future__ import annotations

from typing import Any, Dict, Optional, Sequence

import numpy as np

from paddlenlp.data.blending import blending_indices
from paddlenlp.data.causal_dataset import GPTDataset
from paddlenlp.data.index_cache import Arrays, IndexCache
from paddlenlp.utils.errors import UsageError

MAX_DATASETS = 32767
PARTS = ("index", "sample_index")


class BlendableDataset:
    """`size` samples drawn from `datasets` so that at every point the shares read so far are closest to `weights`.

    Items are those of the datasets with "dataset_idx" (int16) added.

    Args:
        datasets: each long enough for its share.
        weights: positive, any scale.
        size: samples.
        data_cache_path: folder where the order is kept; None builds it in memory.
        is_builder: False waits for another process to write the cache.

    Raises:
        UsageError: weights do not fit the datasets, or a dataset is too short.
    """

    def __init__(
        self,
        datasets: Sequence[GPTDataset],
        weights: Sequence[float],
        size: int,
        *,
        data_cache_path: Optional[str] = None,
        is_builder: bool = True,
    ) -> None:
        if len(datasets) != len(weights) or not 0 < len(datasets) <= MAX_DATASETS or min(weights) <= 0:
            raise UsageError(
                f"{len(datasets)} datasets with weights {list(weights)} cannot be blended. Expected 1 to "
                f"{MAX_DATASETS} datasets and one weight above 0 for each."
            )
        self.datasets = list(datasets)
        self.size = size
        self.weights = np.array(weights, dtype=np.float64)
        self.weights /= np.sum(self.weights)
        self.desc = self._describe()
        arrays = self._arrays(data_cache_path, is_builder)
        self.dataset_index, self.dataset_sample_index = (arrays[part] for part in PARTS)

    def _describe(self) -> str:
        listed = "".join(dataset.desc + "\n\n" for dataset in self.datasets)
        return f"Blendable dataset\n\nDatasets:\n{listed}Weights: {self.weights}\nSize: {self.size}\n"

    def _arrays(self, data_cache_path: Optional[str], is_builder: bool) -> Arrays:
        if data_cache_path:
            facts = {"lengths": [len(dataset) for dataset in self.datasets], "size": self.size}
            cache = IndexCache(self.desc, PARTS, [data_cache_path], self._problem, facts)
            return cache.load_or_build(self._build, is_builder)
        arrays = self._build()
        problem = self._problem(arrays)
        if problem:
            raise UsageError(f"The datasets cannot be blended: {problem}.")
        return arrays

    def _build(self) -> Arrays:
        return dict(zip(PARTS, blending_indices(self.weights, self.size)))

    def _problem(self, arrays: Arrays) -> Optional[str]:
        """Why the arrays do not fit the datasets, or None when they do."""
        index, sample_index = (arrays[part] for part in PARTS)
        for found, dtypes in ((index, (np.int16, np.uint8)), (sample_index, (np.int64,))):
            if found.shape != (self.size,) or found.dtype not in dtypes:
                return f"an array is {found.dtype} {list(found.shape)}, expected {dtypes[0].__name__} [{self.size}]"
        if self.size and (index.min() < 0 or index.max() >= len(self.datasets)):
            return f"it names a dataset beyond the {len(self.datasets)} there are"
        taken = np.bincount(index, minlength=len(self.datasets))
        for number, (dataset, needed) in enumerate(zip(self.datasets, taken)):
            if needed > len(dataset):
                return f"dataset {number} has {len(dataset)} samples, {needed} are needed"
        by_dataset = sample_index[np.argsort(index, kind="stable")]
        expected = np.arange(self.size) - np.repeat(np.cumsum(taken) - taken, taken)
        return None if np.array_equal(by_dataset, expected) else "the samples of a dataset are not read in order"

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Dict[str, Any]:
        number = self.dataset_index[index]
        return {"dataset_idx": number, **self.datasets[number][int(self.dataset_sample_index[index])]}
