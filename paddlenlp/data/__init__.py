"""Token datasets: files, discovery, splits, sample order, blending, sampling. Nothing here imports Paddle."""

from __future__ import annotations

from paddlenlp.utils.lazy import lazy_module

__getattr__, __dir__, __all__ = lazy_module(
    __name__,
    {
        "BlendableDataset": "blendable_dataset",
        "CompatibleIndexedDataset": "older_formats",
        "DistributedBatchSampler": "sampler",
        "DocumentBounds": "bounds",
        "GPTDataset": "causal_dataset",
        "IndexedDataset": "older_formats",
        "MMapIndexedDataset": "indexed_dataset",
        "MMapIndexedDatasetBuilder": "indexed_builder",
        "TokenStore": "token_store",
        "best_dtype": "token_store",
        "build_train_valid_test_datasets": "pretraining_data",
        "check_data": "discovery",
        "check_data_split": "splits",
        "check_document_ends": "bounds",
        "collate_causal_lm": "collate",
        "find_data_prefixes": "discovery",
        "get_train_data_file": "discovery",
        "make_builder": "indexed_builder",
        "make_dataset": "indexed_dataset",
        "max_token_id": "token_ids",
        "read_sidecar": "sidecar",
        "write_sidecar": "sidecar",
    },
)
