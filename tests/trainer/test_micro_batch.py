"""auto_micro_batch: the largest that fits, with the global batch as it was."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from paddlenlp.doctor.devices import Card
from paddlenlp.planning.abstract import abstract_model
from paddlenlp.planning.layout import Layout
from paddlenlp.planning.memory import fullest, plan_memory
from paddlenlp.trainer import PreTrainingArguments, micro_batch
from paddlenlp.trainer.micro_batch import candidates, choose_micro_batch, free_memory, largest
from paddlenlp.transformers import AutoConfig
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.machine import Memory

CONFIG = AutoConfig.from_dict(
    {
        "model_type": "llama",
        "vocab_size": 1024,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
    }
)
DATA = SimpleNamespace(max_seq_length=256)


def arguments(size=2, rounds=12, **changes):
    batch = {"per_device_train_batch_size": size, "gradient_accumulation_steps": rounds}
    return PreTrainingArguments(output_dir="x", do_train=True, max_steps=1, auto_micro_batch=True, **batch, **changes)


def needed(args, size):
    layout = Layout.from_args(args, 256).with_(micro_batch=size, accumulation=24 // size)
    return fullest(plan_memory(abstract_model(CONFIG), layout, "cpu")).needed


def test_candidates_keep_the_product():
    assert candidates(arguments()) == [(24, 1), (12, 2), (8, 3), (6, 4), (4, 6), (3, 8), (2, 12), (1, 24)]
    assert candidates(arguments(7, 1)) == [(7, 1), (1, 7)]


def test_a_pipeline_keeps_as_many_rounds_as_it_has_stages(monkeypatch):
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "4")
    assert [pair for pair in candidates(arguments(pipeline_parallel_degree=4))][0] == (6, 4)
    # The interleaved schedule takes multiples of the stages.
    found = candidates(arguments(pipeline_parallel_degree=4, virtual_pp_degree=2))
    assert [rounds for _, rounds in found] == [4, 8, 12, 24]
    # Where there are fewer rounds than stages in any case, it is as the arguments say.
    assert candidates(arguments(2, 1, pipeline_parallel_degree=4)) == [(2, 1), (1, 2)]


@pytest.mark.parametrize("size", [24, 12, 6, 2, 1])
def test_the_largest_that_fits(size):
    args = arguments()
    room = needed(args, size)
    assert largest(args, CONFIG, 256, room, "cpu") == ((size, 24 // size), room)
    if size > 1:
        (smaller, _), _ = largest(args, CONFIG, 256, room - 1, "cpu")
        assert smaller < size
        return
    with pytest.raises(UsageError, match="even a micro batch of 1 needs .*Set recompute"):
        largest(args, CONFIG, 256, room - 1, "cpu")


def test_what_is_free_on_the_fullest_rank_counts(monkeypatch):
    args = arguments()
    room = int(needed(args, 12) / (1 - micro_batch.MARGIN)) + 1
    monkeypatch.setattr(micro_batch, "free_memory", lambda _: ("cpu", 64 << 30))
    monkeypatch.setattr("paddlenlp.parallel.objects.everyones", lambda own: [room])
    made = choose_micro_batch(args, CONFIG, DATA)
    assert (made.per_device_train_batch_size, made.gradient_accumulation_steps) == (12, 2)
    assert made.samples_per_step == args.samples_per_step == 24
    assert args.per_device_train_batch_size == 2  # what the user wrote stays as it was
    monkeypatch.setattr("paddlenlp.parallel.objects.everyones", lambda own: [None])
    assert choose_micro_batch(args, CONFIG, DATA) is args


def test_nothing_is_looked_at_unless_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(micro_batch, "free_memory", lambda _: pytest.fail("looked"))
    args = PreTrainingArguments(output_dir="x")
    assert choose_micro_batch(args, CONFIG, DATA) is args


def test_free_memory(monkeypatch):
    monkeypatch.setattr(micro_batch, "memory_of_host", lambda: Memory(64, 48))
    assert free_memory(SimpleNamespace(local_world_size=4)) == ("cpu", 12)
    monkeypatch.setattr(micro_batch, "memory_of_host", lambda: None)
    assert free_memory(SimpleNamespace(local_world_size=4)) == ("cpu", None)


def test_free_memory_of_a_card(monkeypatch):
    seen = [Card("A", "1", 1000, 100), Card("A", "1", 1000, 300)]
    monkeypatch.setattr("paddle.get_device", lambda: "gpu:0")
    monkeypatch.setattr(micro_batch, "cards", lambda: seen)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert free_memory(None) == ("gpu", 900 << 20)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert free_memory(None) == ("gpu", 700 << 20)
    monkeypatch.setattr(micro_batch, "cards", lambda: None)
    assert free_memory(None) == ("gpu", None)
