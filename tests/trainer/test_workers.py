"""Worker processes that read data change nothing: batches, their order and weights, on resuming too."""

from __future__ import annotations

import shutil
import time

import numpy as np
import pytest

from paddlenlp.data import BlendableDataset, DistributedBatchSampler, MMapIndexedDatasetBuilder, collate_causal_lm
from paddlenlp.data.causal_dataset import GPTDataset
from paddlenlp.data.indexed_dataset import make_dataset


class Uneven:
    """A dataset some of whose samples take long, so that workers finish in another order than they begin."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        time.sleep(0.02 * (index % 5 == 0))
        return self.dataset[index]


@pytest.fixture
def blend(tmp_path):
    """60 samples of 8 tokens from two datasets."""
    parts = []
    for name in "ab":
        rng = np.random.RandomState(ord(name))
        with MMapIndexedDatasetBuilder(str(tmp_path / name), "uint16") as builder:
            for size in rng.randint(1, 30, 60):
                builder.add_item(rng.randint(0, 64, size))
                builder.end_document()
            builder.finalize()
        store = make_dataset(str(tmp_path / name))
        parts.append(GPTDataset("train", str(tmp_path / name), range(len(store)), store, "1", 60, 8, 42))
    return BlendableDataset(parts, [2, 1], 60)


def test_batches_are_the_same_for_any_number_of_workers(blend):
    from paddlenlp.trainer.batches import make_loader

    found = {}
    for workers in (0, 1, 4):
        sampler = DistributedBatchSampler(len(blend), 3, consumed_samples=6)
        loader = make_loader(Uneven(blend), sampler, collate_causal_lm, workers)
        found[workers] = [{name: value.numpy().tolist() for name, value in batch.items()} for batch in loader]
    assert len(found[0]) == 18 and len({str(batch) for batch in found[0]}) == 18
    assert found[1] == found[0] and found[4] == found[0]


def test_training_is_the_same_for_any_number_of_workers_and_may_go_on_with_another(tiny, run_hash_of, tokens, tmp_path):
    found = {}
    for workers in (0, 1, 4):
        folder = str(tmp_path / f"with{workers}")
        trainer = tiny.trainer(data=Uneven(tokens(64)), output_dir=folder, dataloader_num_workers=workers)
        trainer.train()
        found[workers] = run_hash_of(trainer)
    for begun, ended in ((0, 4), (4, 1)):
        folder = tmp_path / f"with{begun}"
        shutil.rmtree(folder / "checkpoint-4")
        trainer = tiny.trainer(data=Uneven(tokens(64)), output_dir=str(folder), dataloader_num_workers=ended)
        trainer.train()
        found[begun, ended] = run_hash_of(trainer)
    for hashes in found.values():
        assert hashes == found[0]
