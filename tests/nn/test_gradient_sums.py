"""Weight gradients that are added to the sum over the micro batches inside the product that makes them."""

from __future__ import annotations

import sys

import fake_external
import numpy as np
import paddle
import pytest

from paddlenlp.nn import configure_run, kernels
from paddlenlp.nn.precision import Precision, set_precision
from paddlenlp.trainer.training_args import TrainingArguments

ADDS = """
def add_product_(total, a, b):
    total.add_(paddle.matmul(a, b, transpose_x=True))
"""
MATRICES = 3 * 7  # of the layers: the head and the embedding have operations of their own


@pytest.fixture(autouse=True)
def _restore():
    yield
    kernels.configure()


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """The shapes of the sums that were added to."""
    source = fake_external.FUSED_LAYERS + ADDS
    fake_external.install(monkeypatch, tmp_path, fused_ln=fake_external.FUSED_LN, fused_layers=source)
    found = []
    configure_run(TrainingArguments("unused"))
    module = sys.modules["fused_layers"]
    add = module.add_product_
    monkeypatch.setattr(module, "add_product_", lambda total, a, b: found.append(total.shape) or add(total, a, b))
    return found


def gradients(model, *batches):
    model.train_batch(list(batches))
    return {name: param.grad.numpy() for name, param in model.named_parameters()}


@pytest.mark.parametrize("changes", [{}, {"attention_bias": True}, {"tie_word_embeddings": True}], ids=str)
def test_sums_are_those_of_autograd(calls, build, batch, changes):
    configure_run(TrainingArguments("unused", enable_linear_fused_grad_add=False))
    wanted = gradients(build(**changes), batch, batch, batch)
    assert calls == []
    configure_run(TrainingArguments("unused"))
    model = build(**changes)
    found = gradients(model, batch, batch, batch)
    assert len(calls) == 2 * MATRICES  # autograd stores those of the first micro batch
    for name, gradient in wanted.items():
        np.testing.assert_allclose(found[name], gradient, rtol=1e-5, atol=1e-6 * np.abs(gradient).max(), err_msg=name)
    model(batch["input_ids"]).sum().backward()  # nobody sums these
    assert len(calls) == 2 * MATRICES


def test_one_micro_batch_is_left_to_autograd(calls, build, batch):
    gradients(build(), batch)
    assert calls == []


def test_a_frozen_matrix_gets_none(calls, build, batch):
    model = build()
    frozen = next(param for name, param in model.named_parameters() if name.endswith("up_proj.weight"))
    frozen.stop_gradient = True
    model.train_batch([batch, batch])
    assert frozen.grad is None and len(calls) == MATRICES - 1


@pytest.mark.parametrize("storage", ["float32", "bfloat16"])
def test_where_the_parameter_is_not_what_is_multiplied_autograd_sums(calls, build, batch, storage):
    """Rounding to the compute dtype, or float32 in the place of it, lies between."""
    set_precision(Precision(storage, "bfloat16", "float32", emulated=True))
    build(dtype=storage).train_batch([batch, batch])
    assert calls == []


def test_low_precision_is_added_to_float32_sums():
    """As on a GPU, where the parameter is stored in the dtype that is computed in: the first gradient is added too."""
    from paddlenlp.nn.precision import GradientSums

    param = paddle.create_parameter([2, 3], "bfloat16", default_initializer=paddle.nn.initializer.Constant(0.0))
    sums = GradientSums([param])
    total = sums.total(param)
    assert total.dtype == paddle.float32 and not total.numpy().any()
    total.add_(paddle.ones([2, 3]))
    assert sums.total(param).numpy().tolist() == [[1.0] * 3] * 2
    sums.finish()
    assert param.grad.astype("float32").numpy().tolist() == [[1.0] * 3] * 2
    param.grad = None
    set_precision(Precision("bfloat16", "bfloat16", "bfloat16"))
    assert GradientSums([param]).total(param) is None  # sums of that dtype are autograd's


def test_it_can_be_required(monkeypatch, tmp_path):
    from paddlenlp.utils.errors import UsageError

    fake_external.install(monkeypatch, tmp_path, fused_ln=fake_external.FUSED_LN)
    with pytest.raises(UsageError, match="enable_linear_fused_grad_add is require"):
        configure_run(TrainingArguments("unused", enable_linear_fused_grad_add="require"))


def test_what_a_bucket_gives_is_its_own_memory(build):
    """Of several processes: what is added to it is what the ranks exchange."""
    from paddlenlp.parallel.buckets import plan

    model = build()
    bucket = next(bucket for bucket in plan(model, 1 << 20, by_stage=False) if bucket.members)
    member = bucket.members[-1]
    total = bucket.gradient_sum(member)
    assert total.shape == member.param.shape
    total.add_(paddle.ones(total.shape))
    bucket.collect(member)  # its hook is called, without a gradient
    found = bucket._collected().numpy()
    assert member.fired == 1 and found[member.offset : member.stop].min() == 1 and found.sum() == total.size
