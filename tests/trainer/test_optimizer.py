"""AdamW: against Paddle's own and the formula; clipping, decay rule, masters, loss scaling, state."""

import inspect
from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from paddlenlp.parallel.gradients import WholeGradients
from paddlenlp.trainer.loss_scaler import LossScaler
from paddlenlp.trainer.optimizer import Optimizer, build_optimizer
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.tensor_files import TensorFiles, write_shards

SHAPES = {"embed.weight": [7, 4], "mlp.bias": [3], "layernorm.weight": [4], "lm_head.weight": [4, 5]}
DECAYED = {"embed.weight", "lm_head.weight"}


def make_params(dtype="float32", seed=0):
    rng = np.random.RandomState(seed)
    params = {}
    for name, shape in SHAPES.items():
        params[name] = paddle.create_parameter(shape, "float32")
        params[name].set_value(rng.randn(*shape).astype("float32"))
        if dtype != "float32":
            value = params[name].astype(dtype)
            params[name] = paddle.create_parameter(
                shape, dtype, default_initializer=paddle.nn.initializer.Assign(value)
            )
    return params


def give_gradients(params, step, scale=1.0):
    rng = np.random.RandomState(100 + step)
    for name, param in params.items():
        value = (rng.randn(*SHAPES[name]) * scale).astype("float32")
        param.grad = paddle.to_tensor(value).astype(param.dtype)


def make(params, lr=1e-2, **options):
    return Optimizer(WholeGradients(SimpleNamespace(named_parameters=params.items)), lr, **options)


def bits(tensors):
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def numpy_adamw(params, gradients, lrs, decay, limit, beta1, beta2, epsilon):
    """AdamW of Loshchilov and Hutter, algorithm 2, in float64, with clipping by global norm."""
    weights = {name: value.astype("float64") for name, value in params.items()}
    first, second = ({name: 0.0 for name in params} for _ in range(2))
    norms = []
    for step, (lr, grads) in enumerate(zip(lrs, gradients), start=1):
        norms.append(sum(float((grad.astype("float64") ** 2).sum()) for grad in grads.values()) ** 0.5)
        for name, grad in grads.items():
            grad = grad * min(1.0, limit / norms[-1]) if limit else grad
            first[name] = beta1 * first[name] + (1 - beta1) * grad
            second[name] = beta2 * second[name] + (1 - beta2) * grad**2
            update = first[name] / (1 - beta1**step) / (np.sqrt(second[name] / (1 - beta2**step)) + epsilon)
            weights[name] = weights[name] * (1 - lr * decay * (name in DECAYED)) - lr * update
    return weights, norms


@pytest.mark.parametrize("limit", [0.0, 1.0])
def test_equals_the_formula_over_20_steps(limit):
    params = make_params()
    start = {name: param.numpy() for name, param in params.items()}
    lrs = [1e-2 * (1 + step) / 20 for step in range(20)]
    current = iter(lrs)
    optimizer = make(params, lambda: lr, beta1=0.8, beta2=0.95, epsilon=1e-6, weight_decay=0.3, max_grad_norm=limit)
    gradients, norms = [], []
    for step in range(20):
        lr = next(current)
        give_gradients(params, step)
        gradients.append({name: param.grad.numpy() for name, param in params.items()})
        norms.append(optimizer.step().grad_norm)
        optimizer.clear_grad()
    expected, expected_norms = numpy_adamw(start, gradients, lrs, 0.3, limit, 0.8, 0.95, 1e-6)
    np.testing.assert_allclose(norms, expected_norms, rtol=1e-6)
    for name, param in params.items():
        np.testing.assert_allclose(param.numpy(), expected[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_equals_paddles_adamw_with_clipping_over_20_steps():
    ours, theirs = make_params(), make_params()
    optimizer = make(ours, 1e-2, weight_decay=0.1, max_grad_norm=2.0)
    decayed = {theirs[name].name for name in DECAYED}
    paddles = paddle.optimizer.AdamW(
        1e-2,
        parameters=list(theirs.values()),
        weight_decay=0.1,
        apply_decay_param_fun=lambda name: name in decayed,
        grad_clip=paddle.nn.ClipGradByGlobalNorm(2.0),
    )
    for step in range(20):
        give_gradients(ours, step, scale=0.2 + step % 2)  # some steps clip, some do not
        give_gradients(theirs, step, scale=0.2 + step % 2)
        optimizer.step()
        paddles.step()
    for name in SHAPES:
        np.testing.assert_allclose(ours[name].numpy(), theirs[name].numpy(), rtol=1e-6, atol=1e-6, err_msg=name)


def test_decay_alone_touches_neither_bias_nor_norm_and_uses_the_rate_of_the_step():
    params = make_params()
    start = {name: param.numpy() for name, param in params.items()}
    schedule = paddle.optimizer.lr.PiecewiseDecay([1], [0.5, 0.25])
    optimizer = make(params, schedule, weight_decay=0.1)
    for param in params.values():
        param.grad = paddle.zeros_like(param)
    optimizer.step()
    schedule.step()
    assert optimizer.lr == 0.25
    optimizer.step()
    for name, param in params.items():
        factor = 0.95 * 0.975 if name in DECAYED else 1.0
        np.testing.assert_allclose(param.numpy(), start[name] * factor, rtol=1e-6, err_msg=name)


def test_norm_is_that_before_clipping_and_small_gradients_are_left_alone():
    params = make_params()
    optimizer = make(params, max_grad_norm=1.0)
    give_gradients(params, 0, scale=1e-3)
    before = bits({name: param.grad for name, param in params.items()})
    report = optimizer.step()
    assert report.applied and report.grad_norm < 1
    assert bits({name: param.grad for name, param in params.items()}) == before
    give_gradients(params, 0)
    averages = first_moments(optimizer)
    assert optimizer.step().grad_norm > 1
    entered = [(after - 0.9 * then) / (1 - 0.9) for after, then in zip(first_moments(optimizer), averages)]
    assert sum(float((gradient**2).sum()) for gradient in entered) == pytest.approx(1.0, rel=1e-5)


def first_moments(optimizer):
    """Copies: they show which gradients an update took, whether or not it scaled them in memory."""
    return [optimizer.states(piece)["moment1_0"].astype("float64") for piece in optimizer.pieces]


def test_norm_of_many_values_is_accurate():
    param = paddle.create_parameter([3_000_000], "float32")
    value = np.random.RandomState(0).rand(3_000_000).astype("float32")
    param.grad = paddle.to_tensor(value)
    expected = float(np.sqrt((value.astype("float64") ** 2).sum()))
    assert make({"w": param}).step().grad_norm == pytest.approx(expected, rel=1e-6)


class Tied(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        self.embed = paddle.nn.Embedding(3, 2)
        self.head = paddle.nn.Linear(2, 3, bias_attr=False)
        self.head.weight = self.embed.weight


def arguments(**changes):
    defaults = {
        "learning_rate": 1e-2,
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "adam_epsilon": 1e-8,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "fp16": False,
        "scale_loss": 2.0**15,
        "sharding_stage": 0,
        "sharding_offload": False,
        "bucket_bytes": 1 << 25,
    }
    return SimpleNamespace(**{**defaults, **changes})


def test_tied_parameter_counts_once():
    model = Tied()
    optimizer = build_optimizer(model, arguments())
    model.embed.weight.grad = paddle.ones([3, 2])
    assert optimizer.step().grad_norm == pytest.approx(6**0.5)
    assert len(optimizer.state_tensors()) == 4


def test_frozen_parameters_have_no_state_and_do_not_move():
    params = make_params()
    params["embed.weight"].stop_gradient = True
    optimizer = make(params, weight_decay=0.5)
    give_gradients(params, 0)
    before = params["embed.weight"].numpy()
    optimizer.step()
    np.testing.assert_array_equal(params["embed.weight"].numpy(), before)
    assert not any(name.startswith("embed") for name in optimizer.state_tensors())


def test_parameter_without_gradient_is_left_alone():
    params = make_params()
    optimizer = make(params, weight_decay=0.5)
    give_gradients(params, 0)
    params["lm_head.weight"].clear_gradient(False)
    before = params["lm_head.weight"].numpy()
    optimizer.step()
    np.testing.assert_array_equal(params["lm_head.weight"].numpy(), before)


def test_clear_grad_leaves_no_gradient_and_the_next_backward_is_right():
    params = make_params()
    optimizer = make(params)
    for _ in range(2):
        sum((param * 3).sum() for param in params.values()).backward()
        assert float(params["mlp.bias"].grad[0]) == 3
        optimizer.step()
        optimizer.clear_grad()
        assert all(param.grad is None for param in params.values())


@pytest.mark.parametrize(
    ("argument", "change"),
    [("adam_beta1", 0.5), ("adam_beta2", 0.5), ("adam_epsilon", 1.0), ("weight_decay", 0.5), ("max_grad_norm", 0.1)]
    + [("learning_rate", 1e-3)],
)
def test_every_argument_is_heeded(argument, change):
    results = []
    for options in ({}, {argument: change}):
        layer = paddle.nn.Linear(3, 2)
        layer.weight.set_value(np.ones([3, 2], "float32"))
        optimizer = build_optimizer(layer, arguments(**options))
        for value in (0.1, 0.7):
            layer.weight.grad = paddle.full([3, 2], value)
            optimizer.step()
        results.append(layer.weight.numpy())
    assert np.abs(results[0] - results[1]).max() > 1e-5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_gradient_that_is_not_finite_changes_nothing(dtype, bad):
    params = make_params(dtype)
    optimizer = make(params, weight_decay=0.1, max_grad_norm=1.0)
    give_gradients(params, 0)
    optimizer.step()
    before = bits(
        {**params, **optimizer.state_tensors(), **{f"m/{k}": v for k, v in optimizer.master_tensors().items()}}
    )
    give_gradients(params, 1)
    broken = params["mlp.bias"].grad.astype("float32").numpy()
    broken[1] = bad
    params["mlp.bias"].grad = paddle.to_tensor(broken).astype(dtype)
    report = optimizer.step()
    assert not report.applied
    assert not np.isfinite(report.grad_norm)
    after = {**params, **optimizer.state_tensors(), **{f"m/{k}": v for k, v in optimizer.master_tensors().items()}}
    assert bits(after) == before


def test_state_names_are_the_structured_ones():
    optimizer = make(make_params())
    keys = ("moment1_0", "moment2_0", "beta1_pow_acc_0", "beta2_pow_acc_0")
    assert set(optimizer.state_tensors()) == {f"{name}/{key}" for name in SHAPES for key in keys}
    assert optimizer.state_tensors()["mlp.bias/beta1_pow_acc_0"].shape == [1]
    assert optimizer.master_tensors() == {}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_saved_state_continues_bitwise(tmp_path, dtype):
    def run(params, optimizer, steps):
        for step in steps:
            give_gradients(params, step)
            optimizer.step()
            optimizer.clear_grad()

    options = {"weight_decay": 0.1, "max_grad_norm": 1.0}
    whole = make_params(dtype)
    one = make(whole, **options)
    run(whole, one, range(6))

    first = make_params(dtype)
    half = make(first, **options)
    run(first, half, range(3))
    write_shards(tmp_path, "model", first)
    write_shards(tmp_path, "optimizer", half.state_tensors())
    write_shards(tmp_path, "master_weights", half.master_tensors())

    second = make_params(dtype, seed=9)
    for name, value in TensorFiles(tmp_path, "model").items():
        second[name].set_value(value)
    rest = make(second, **options)
    rest.load_state_tensors(TensorFiles(tmp_path, "optimizer"))
    if dtype != "float32":
        rest.load_master_tensors(TensorFiles(tmp_path, "master_weights"))
    run(second, rest, range(3, 6))
    assert bits(second) == bits(whole)
    assert bits(rest.state_tensors()) == bits(one.state_tensors())
    assert bits(rest.master_tensors()) == bits(one.master_tensors())


def test_state_that_does_not_fit_is_one_error_and_changes_nothing():
    optimizer = make(make_params())
    saved = {name: value.numpy() + 1 for name, value in optimizer.state_tensors().items()}
    del saved["mlp.bias/moment1_0"]
    saved["other/moment1_0"] = np.zeros(2, "float32")
    saved["embed.weight/moment2_0"] = np.zeros([7, 5], "float32")
    before = bits(optimizer.state_tensors())
    with pytest.raises(UsageError) as caught:
        optimizer.load_state_tensors(saved)
    message = str(caught.value)
    assert "1 missing: mlp.bias/moment1_0" in message
    assert "1 unexpected: other/moment1_0" in message
    assert "embed.weight/moment2_0 (found [7, 5], expected [7, 4])" in message
    assert bits(optimizer.state_tensors()) == before


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("main_gradients", [False, True])
def test_masters_take_steps_that_low_precision_cannot_hold(dtype, main_gradients):
    params, reference = make_params(dtype), make_params()
    for name in SHAPES:
        reference[name].set_value(params[name].astype("float32"))
    optimizer, exact = make(params, 1e-5, weight_decay=0.1), make(reference, 1e-5, weight_decay=0.1)
    for _ in range(200):
        for name in SHAPES:
            params[name].grad = paddle.ones(SHAPES[name], "float32" if main_gradients else dtype)
            reference[name].grad = paddle.ones(SHAPES[name])
        optimizer.step()
        exact.step()
    masters = optimizer.master_tensors()
    for name in SHAPES:
        np.testing.assert_array_equal(masters[name].numpy(), reference[name].numpy())
        assert params[name].dtype.name.lower() == dtype
        np.testing.assert_array_equal(params[name].numpy(), reference[name].astype(dtype).numpy())


def test_float32_parameters_are_among_the_masters_of_a_mixed_model():
    params = {**make_params("bfloat16"), "norm.weight": make_params()["layernorm.weight"]}
    masters = make(params).master_tensors()
    assert set(masters) == set(params)
    assert all(master.dtype == paddle.float32 for master in masters.values())


def test_masters_load_across_precisions():
    low, full = make_params("bfloat16", seed=1), make_params(seed=2)
    give_gradients(low, 0)
    source = make(low)
    source.step()
    saved = {name: value.numpy() for name, value in source.master_tensors().items()}
    make(full).load_master_tensors(saved)
    for name, param in full.items():
        np.testing.assert_array_equal(param.numpy(), saved[name])
    fresh = make_params("bfloat16", seed=3)
    optimizer = make(fresh)
    optimizer.load_master_tensors({name: param.numpy() for name, param in low.items()})  # bfloat16 bits
    for name, param in fresh.items():
        np.testing.assert_array_equal(param.numpy(), low[name].numpy())
        np.testing.assert_array_equal(optimizer.master_tensors()[name].numpy(), low[name].astype("float32").numpy())
    with pytest.raises(UsageError, match="master weights does not fit this model: 4 missing"):
        optimizer.load_master_tensors({})


def test_masters_come_from_a_whole_model_that_holds_frozen_parameters_too():
    params = make_params("bfloat16")
    params["embed.weight"].stop_gradient = True
    optimizer = make(params)
    optimizer.load_master_tensors(params)
    assert set(optimizer.master_tensors()) == set(params) - {"embed.weight"}
    with pytest.raises(UsageError, match="1 unexpected: other"):
        optimizer.load_master_tensors({**params, "other": params["mlp.bias"]})


def test_loss_scale_is_taken_out_before_clipping_and_update():
    scaled, plain = make_params(), make_params()
    optimizer = make(scaled, epsilon=0.1, max_grad_norm=5.0, scaler=LossScaler(1024.0))
    reference = make(plain, epsilon=0.1, max_grad_norm=5.0)
    for step in range(3):
        give_gradients(scaled, step, scale=0.5 + step)  # the last ones clip
        give_gradients(plain, step, scale=0.5 + step)
        for param in scaled.values():
            param.grad.scale_(optimizer.loss_scale)
        report, expected = optimizer.step(), reference.step()
        assert report.grad_norm == pytest.approx(expected.grad_norm, rel=1e-6)
        assert report.loss_scale == 1024.0
    for name in SHAPES:
        np.testing.assert_allclose(scaled[name].numpy(), plain[name].numpy(), rtol=1e-6, atol=1e-7)


def test_overflow_skips_the_step_halves_the_scale_and_training_goes_on():
    params = make_params("float16")
    optimizer = make(params, scaler=LossScaler(2.0**15))
    before = bits({**params, **optimizer.state_tensors()})
    give_gradients(params, 0)
    params["mlp.bias"].grad = paddle.full([3], 60000.0, "float16") * 2
    report = optimizer.step()
    assert (report.applied, report.loss_scale, optimizer.loss_scale) == (False, 2.0**15, 2.0**14)
    assert bits({**params, **optimizer.state_tensors()}) == before
    give_gradients(params, 0)
    assert optimizer.step().applied
    assert bits(params) != {name: before[name] for name in params}


def test_scaler_grows_after_good_steps_in_a_row_and_never_falls_below_one():
    scaler = LossScaler(4.0, incr_every_n_steps=3)
    scales = []
    for overflow in [False, False, True, False, False, False, True, True, True, True]:
        scaler.update(overflow)
        scales.append(scaler.scale)
    assert scales == [4, 4, 2, 2, 2, 4, 2, 1, 1, 1]


def test_scaler_agrees_with_the_defaults_of_paddles():
    theirs = inspect.signature(paddle.amp.GradScaler.__init__).parameters
    ours = LossScaler()
    for name in ("incr_ratio", "decr_ratio", "incr_every_n_steps", "decr_every_n_nan_or_inf"):
        assert getattr(ours, name) == theirs[name].default


def test_scaler_state_continues():
    one, two = LossScaler(8.0, incr_every_n_steps=5), LossScaler(1.0, incr_every_n_steps=5)
    for overflow in [True, False, False, False]:
        one.update(overflow)
    two.load_state_dict(one.state_dict())
    for scaler in (one, two):
        for _ in range(2):
            scaler.update(False)
    assert one.state_dict() == two.state_dict() == {"scale": 8.0, "incr_count": 0, "decr_count": 0}
    with pytest.raises(UsageError, match="expected scale, incr_count and decr_count"):
        two.load_state_dict({"scale": 1.0})


def test_only_float16_runs_get_a_scaler():
    assert build_optimizer(Tied(), arguments(fp16=True, scale_loss=128.0)).loss_scale == 128.0
    assert build_optimizer(Tied(), arguments()).scaler is None
    assert build_optimizer(Tied(), arguments()).loss_scale == 1.0
