"""The ring on one process: what it keeps, and what is under way while it computes.

Rings of several ranks are compared with whole rows in tests/parallel/test_sequence.py.
"""

from __future__ import annotations

import gc

import numpy as np
import paddle
import pytest

from paddlenlp.nn import plain, ring
from paddlenlp.nn.blocks import Rule
from paddlenlp.nn.ring import ring_attention
from paddlenlp.parallel.group import SoloGroup, Work


@pytest.fixture
def heads():
    """Queries, keys and values of 64 tokens."""
    paddle.seed(0)
    made = [paddle.randn(shape) for shape in ([2, 64, 4, 8], [2, 64, 2, 8], [2, 64, 2, 4])]
    for x in made:
        x.stop_gradient = False
    return made


def live():
    gc.collect()
    return paddle.base.core.host_memory_stat_current_value("Allocated", 0)


def test_a_ring_of_one_is_attention(heads):
    found, expected = (
        ring_attention(*heads, Rule(0.3, window=9), SoloGroup()),
        plain.attention(*heads, scale=0.3, window=9),
    )
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-5, atol=1e-6)


def test_only_the_result_and_its_lse_are_kept_and_nothing_after_the_backward_pass(heads):
    before = live()
    out = ring_attention(*heads, Rule(0.3), SoloGroup())
    kept = live() - before
    floats = 2 * 64 * 4 * 4 + 2 * 64 * 4
    assert 4 * floats <= kept < 4.5 * floats
    out.sum().backward()
    for x in heads:
        x.clear_gradient(False)
    del out
    assert live() - before < 2 * floats


class Recorder(SoloGroup):
    """A ring of `size` ranks of which only this one is there: it gets back what it sends, and notes what happens."""

    def __init__(self, rank: int, size: int) -> None:
        super().__init__()
        self.rank, self.size, self.events, self.sent = rank, size, [], []

    def send(self, x, to):
        self.events.append(f"send to {to}")
        self.sent.append(x)
        return Work(lambda: None)

    def receive(self, shape, dtype, source):
        self.events.append(f"receive from {source}")
        number = sum(event.startswith("receive") for event in self.events) - 1
        return Work(lambda: self.events.append("wait") or self.sent[number])


@pytest.mark.parametrize(
    ("rank", "start"), [(0, ["send to 1", "receive from 2"]), (1, ["receive from 0", "send to 2"])]
)
def test_the_next_keys_are_under_way_while_blocks_are_computed(heads, rank, start, monkeypatch):
    group = Recorder(rank, 3)
    for name in ("block_attention", "block_gradients"):
        function = getattr(ring, name)
        monkeypatch.setattr(ring, name, lambda *a, function=function: group.events.append("block") or function(*a))
    out = ring_attention(*heads, Rule(0.3), group)
    forward, blocks = [*start, *["block"] * 3, "wait"], ["block"] * 2
    assert group.events == [*forward, *start, *blocks, "wait", *blocks]
    group.events.clear()
    group.sent.clear()
    out.sum().backward()
    # Gradients of the keys of step 1 leave after it, and arrive while step 2 is computed.
    assert group.events == [*forward, *start, *blocks, *start, "wait", *blocks, "wait", *start, "wait"]
