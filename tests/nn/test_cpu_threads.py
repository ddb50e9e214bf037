"""Parts of an operation that run at once."""

from __future__ import annotations

import threading

import numpy as np
import paddle
import pytest

from paddlenlp.nn.cpu import threads


@pytest.fixture(params=[1, 3])
def count(request, monkeypatch):
    monkeypatch.setattr(threads, "count", lambda: request.param)
    return request.param


def test_results_come_in_order(count):
    assert threads.run(lambda part: part * part, range(20)) == [part * part for part in range(20)]


def test_parts_run_at_once(monkeypatch):
    monkeypatch.setattr(threads, "count", lambda: 2)
    meeting = threading.Barrier(2)
    assert sorted(threads.run(lambda part: meeting.wait(timeout=20), range(2))) == [0, 1]


def test_no_thread_is_used_for_one_part_or_one_core(monkeypatch):
    for cores, parts in ((1, 4), (4, 1)):
        monkeypatch.setattr(threads, "count", lambda cores=cores: cores)
        assert set(threads.run(lambda part: threading.get_ident(), range(parts))) == {threading.get_ident()}


def test_an_error_reaches_the_caller(count):
    with pytest.raises(ZeroDivisionError):
        threads.run(lambda part: 1 // part, [1, 0])


def test_parts_record_no_gradients(count):
    x = paddle.ones([2])
    x.stop_gradient = False
    assert all(y.stop_gradient for y in threads.run(lambda part: x * part, [1, 2]))
    assert not (x * 2).stop_gradient


@pytest.mark.parametrize("length", [1, 2, 3, 7, 64])
def test_spans_cover_everything_once_and_evenly(count, length):
    spans = threads.spans(length)
    assert [i for start, end in spans for i in range(start, end)] == list(range(length))
    sizes = [end - start for start, end in spans]
    assert len(spans) == min(count, length) and max(sizes) - min(sizes) <= 1


def test_a_cut_shares_memory():
    x = paddle.zeros([4, 3])
    threads.cut(x, (1, 3)).add_(paddle.ones([2, 3]))
    np.testing.assert_array_equal(x.sum(-1).numpy(), [0, 3, 3, 0])


def test_a_transposed_tensor_can_be_cut():
    x = paddle.arange(6).reshape([2, 3]).transpose([1, 0])
    np.testing.assert_array_equal(threads.cut(x, (1, 2)).numpy(), [[1, 4]])
