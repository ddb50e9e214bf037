"""Documents that lie one behind the other in a row: what each kernel and each kind of model makes of them is what it
makes of the documents apart."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

import paddlenlp.transformers as transformers
from paddlenlp.data import DocumentBounds
from paddlenlp.nn import gpu, kernels, plain
from paddlenlp.nn.batch import make_batch
from paddlenlp.nn.blocks import Rule
from paddlenlp.nn.cache import KVCache
from paddlenlp.nn.cpu import attention as cpu
from paddlenlp.nn.cpu import threads
from paddlenlp.nn.documents import Documents
from paddlenlp.nn.program import read
from paddlenlp.nn.recompute import RecomputePolicy, set_recompute
from paddlenlp.nn.ring import ring_attention
from paddlenlp.parallel.group import SoloGroup
from paddlenlp.parallel.random import initialise
from paddlenlp.utils.errors import UsageError

LENGTHS = ([3, 1, 5], [9])
"""Of the documents in each row."""


def documents(lengths=LENGTHS):
    return Documents(paddle.to_tensor([np.repeat(np.arange(len(row)), row) for row in lengths]))


def spans(lengths=LENGTHS):
    """(row, slice) of each document."""
    for row, sizes in enumerate(lengths):
        ends = np.cumsum(sizes)
        yield from ((row, slice(int(end - size), int(end))) for size, end in zip(sizes, ends))


def test_bounds_of_documents():
    found = documents()
    assert found.begins().astype("int64").tolist() == [[1, 0, 0, 1, 1, 0, 0, 0, 0], [1] + [0] * 8]
    assert found.ends().astype("int64").tolist() == [[0, 0, 1, 1, 0, 0, 0, 0, 1], [0] * 8 + [1]]
    offsets, longest = found.sequences()
    assert offsets.tolist() == [0, 3, 4, 9, 18] and offsets.dtype == paddle.int32 and longest == 9
    assert found.sequences()[0] is offsets
    assert found.same(slice(2, 4), slice(0, 4)).astype("int64").tolist()[0] == [[1, 1, 1, 0], [0, 0, 0, 1]]


def heads(lengths, dtype="float32"):
    rows, tokens = len(lengths), sum(lengths[0])
    paddle.seed(3)
    return [paddle.randn([rows, tokens, count, size]).astype(dtype) for count, size in ((4, 8), (2, 8), (2, 6))]


def with_gradients(function, tensors):
    """The result and the gradients of a weighted sum of it."""
    tensors = [x.detach() for x in tensors]
    for x in tensors:
        x.stop_gradient = False
    y = function(*tensors)
    (y * paddle.cos(paddle.arange(y.shape[2] * y.shape[3], dtype="float32")).reshape(y.shape[2:])).sum().backward()
    return [y.detach(), *(x.grad for x in tensors)]


def apart(function, tensors, lengths):
    """As `with_gradients`, each document by itself, put together again."""
    whole = None
    for row, span in spans(lengths):
        found = with_gradients(function, [x[row : row + 1, span] for x in tensors])
        whole = whole or [paddle.zeros([len(lengths), sum(lengths[0]), *x.shape[2:]]) for x in found]
        for place, part in zip(whole, found):
            place[row, span] = part[0]
    return whole


def assert_close(found, expected, tolerance=2e-6):
    for mine, theirs in zip(found, expected):
        np.testing.assert_allclose(mine.numpy(), theirs.numpy(), rtol=1e-5, atol=tolerance)


LONG, EVEN = ([100, 60, 140], [1, 299]), ([3, 1, 4], [2, 6])


@pytest.mark.parametrize("lengths", [EVEN, LONG])
@pytest.mark.parametrize("kernel", ["plain", "cpu", "cpu, computed again", "cpu, two threads", "ring"])
def test_attention_is_that_of_the_documents_apart(monkeypatch, kernel, lengths):
    monkeypatch.setattr(threads, "count", lambda: 2 if "two" in kernel else 1)
    if "again" in kernel:
        monkeypatch.setattr(cpu, "KEPT_BYTES", 0)
    tensors, bounds = heads(lengths), documents(lengths)
    if kernel == "ring":
        found = with_gradients(lambda *x: ring_attention(*x, Rule(0.3, documents=bounds), SoloGroup()), tensors)
    else:
        attention = plain.attention if kernel == "plain" else cpu.attention
        found = with_gradients(lambda *x: attention(*x, scale=0.3, documents=bounds), tensors)
    assert_close(found, apart(lambda *x: plain.attention(*x, scale=0.3), tensors, lengths), 1e-5)


OPTIONS = {
    "window": lambda rows, t: {"window": 2},
    "bias": lambda rows, t: {"bias": -paddle.arange(t, 0, -1, dtype="float32").reshape([1, 1, 1, t]) * 0.1},
    "mask": lambda rows, t: {"mask": paddle.ones([rows, t])},
    "whole mask": lambda rows, t: {"mask": paddle.tril(paddle.ones([1, 1, t, t])).astype("bool")},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_it_goes_with_what_else_attention_has(name):
    tensors = heads(LENGTHS)
    found = with_gradients(lambda *x: kernels.attention(*x, documents=documents(), **OPTIONS[name](2, 9)), tensors)
    assert_close(found, apart(lambda *x: kernels.attention(*x, **OPTIONS[name](1, x[0].shape[1])), tensors, LENGTHS))


def test_cached_keys_of_other_documents_are_not_seen():
    q, k, v = heads(LENGTHS)
    whole = kernels.attention(q, k, v, documents=documents())
    last = kernels.attention(q[:, -4:], k, v, documents=documents())
    np.testing.assert_allclose(last.numpy(), whole[:, -4:].numpy(), rtol=1e-5, atol=1e-6)


def test_flash_attention_gets_documents_as_sequences(monkeypatch):
    """A stand-in for Paddle's operation, which there is on GPUs alone, works by the offsets it is given."""

    def flash(q, k, v, offsets, key_offsets, longest, key_longest, scale, dropout, causal):
        assert key_offsets is offsets and (longest, key_longest) == (9, 9) and causal and dropout == 0.0
        bounds = offsets.tolist()
        parts = [
            plain.attention(*(x[a:b].unsqueeze(0) for x in (q, k, v)), scale=scale) for a, b in zip(bounds, bounds[1:])
        ]
        return paddle.concat(parts, 1).squeeze(0), None

    monkeypatch.setattr(gpu.F.flash_attention, "flash_attn_unpadded", flash)
    monkeypatch.setattr(gpu.paddle, "float32", "none")  # the CPU computes in nothing else
    q, k, _ = heads(LENGTHS)
    for scale in (None, 0.7):
        found = gpu.attention(q, k, k, scale=scale, documents=documents())
        expected = plain.attention(q, k, k, scale=scale, documents=documents())
        np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-5, atol=1e-6)


def test_flash_attention_leaves_documents_with_a_window_or_mask_to_the_plain_version():
    q, k, _ = heads(LENGTHS)
    for options in ({}, {"window": 2}, {"mask": paddle.ones([2, 9])}):
        found = gpu.attention(q, k, k, documents=documents(), **options)
        np.testing.assert_array_equal(found, plain.attention(q, k, k, documents=documents(), **options))


END = 2
SHAPE = dict(
    vocab_size=40,
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=32,
)
LATENT = dict(q_lora_rank=None, kv_lora_rank=8, qk_nope_head_dim=4, qk_rope_head_dim=4, v_head_dim=4)
FAMILIES = {
    "grouped heads": ("Llama", dict(SHAPE, num_key_value_heads=2)),
    "window": ("Mistral", dict(SHAPE, num_key_value_heads=2, sliding_window=3)),
    "linear biases": ("Bloom", dict(vocab_size=40, hidden_size=24, n_layer=2, n_head=4)),
    "learned positions": ("OPT", dict(SHAPE, ffn_dim=40, word_embed_proj_dim=24, dropout=0.0)),
    "local filter": ("Yuan", dict(SHAPE)),
    "latent attention, predicts ahead": (
        "DeepseekV3",
        dict(SHAPE, **LATENT, n_routed_experts=None, num_nextn_predict_lambda=0.5),
    ),
    "experts": ("Mixtral", dict(SHAPE, num_key_value_heads=2, num_local_experts=4, router_aux_loss_coef=0.0)),
}


def made(name):
    family, shape = FAMILIES[name]
    model = getattr(transformers, f"{family}ForCausalLM").from_config(getattr(transformers, f"{family}Config")(**shape))
    initialise(model, 0.3)
    model.train()
    return model


def tokens(lengths=LENGTHS):
    """Inputs and labels: two rows of documents that end in END."""
    text = np.random.RandomState(4).randint(3, 40, (len(lengths), sum(lengths[0]) + 1))
    for row, span in spans(lengths):
        text[row, span.stop - 1] = END
    return text[:, :-1], text[:, 1:]


def tensors(arrays):
    return {name: paddle.to_tensor(array) for name, array in arrays.items()}


def gradients(model, batches):
    model.clear_gradients()
    loss = float(model.train_batch(batches))
    return loss, {name: param.grad.numpy() for name, param in model.named_parameters() if param.grad is not None}


def packed(positions=True, attention=True):
    ids, labels = tokens()
    return tensors({"input_ids": ids, "labels": labels, **DocumentBounds(END, positions, attention).describe(ids)})


def documents_apart():
    ids, labels = tokens()
    return [
        tensors({"input_ids": ids[row : row + 1, span], "labels": labels[row : row + 1, span]}) for row, span in spans()
    ]


@pytest.mark.parametrize("recompute", [None, "full", "full_attn", "core_attn"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_packed_batch_learns_what_the_documents_apart_teach(name, recompute):
    if recompute and name not in ("local filter", "latent attention, predicts ahead"):
        pytest.skip("the same code")
    model = made(name)
    expected, wanted = gradients(model, documents_apart())
    if recompute:
        set_recompute(RecomputePolicy(True, recompute))
    loss, found = gradients(model, [packed()])
    assert loss == pytest.approx(expected, rel=1e-6) and set(found) == set(wanted)
    for key, grad in wanted.items():
        assert np.linalg.norm(found[key] - grad) <= 1e-5 * np.linalg.norm(wanted[key]) + 1e-7, key


@pytest.mark.parametrize("kept", [{"positions": False}, {"attention": False}])
@pytest.mark.parametrize("name", ["grouped heads", "learned positions"])
def test_both_options_act(name, kept):
    """Without one of them the loss is another; but relative positions need no counting anew."""
    model = made(name)
    loss, other = (gradients(model, [packed(**options)])[0] for options in ({}, kept))
    same = name == "grouped heads" and "positions" in kept
    assert (abs(loss - other) < 1e-5) == same


def test_generation_after_a_document():
    model = made("local filter")
    model.eval()
    ids = paddle.to_tensor(tokens()[0])
    numbers, cache = documents().numbers, KVCache(SHAPE["num_hidden_layers"])
    whole = model(ids, document_ids=numbers)
    parts = [model(ids[:, a:b], cache=cache, document_ids=numbers[:, :b]).numpy() for a, b in ((0, 4), (4, 5), (5, 9))]
    np.testing.assert_allclose(np.concatenate(parts, 1), whole.numpy(), rtol=1e-4, atol=1e-5)


def test_what_predicts_ahead_has_no_labels_beyond_its_document():
    model = made("latent attention, predicts ahead")
    labels = read(model, packed()).batch.ahead[1].reshape([2, 9])
    assert [row.tolist() for row in np.nonzero(labels.numpy() == -100)] == [[0, 0, 0, 1], [2, 3, 8, 8]]


def test_numbers_of_other_tokens_are_refused():
    with pytest.raises(UsageError, match=r"document_ids has shape \[2, 9\].* \[2, 8\]"):
        make_batch(paddle.zeros([2, 8], "int64"), document_ids=documents().numbers)


def test_contexts_of_whole_rows_do_not_go_with_documents():
    shape = dict(SHAPE, num_layers=1, inner_hidden_size=40, bos_token_id=9, mask_token_id=7, gmask_token_id=8)
    for name in ("num_hidden_layers", "intermediate_size", "max_position_embeddings"):
        shape.pop(name)
    model = transformers.ChatGLMForCausalLM.from_config(transformers.ChatGLMConfig(**{**shape, "hidden_size": 32}))
    with pytest.raises(UsageError, match="ChatGLMForCausalLM makes a context .* one document each"):
        model(paddle.zeros([2, 9], "int64"), document_ids=documents().numbers)
