"""The operations in float64, their gradients by hand, and how results are compared."""

from __future__ import annotations

import numpy as np

TOLERANCE = 1e-6


def generator(*seed):
    return np.random.default_rng(seed)


def normal(rng, *shape, scale=1.0):
    return (rng.standard_normal(shape) * scale).astype("float32")


def assert_close(found, wanted, tolerance=TOLERANCE):
    """Within `tolerance` of the root mean square of `wanted`, or of the element where that is larger."""
    found, wanted = np.asarray(found, "float64"), np.asarray(wanted, "float64")
    assert found.shape == wanted.shape
    level = np.sqrt(np.mean(wanted**2)) if wanted.size else 0.0
    worst = np.max(np.abs(found - wanted) / np.maximum(np.abs(wanted), level + 1e-300), initial=0.0)
    assert worst <= tolerance, f"off by {worst:.2e}"


def rms_norm(x, scale, epsilon):
    inverse = 1 / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon)
    return x * inverse * scale, inverse


def rms_norm_grad(x, scale, inverse, dy):
    normed, dy = x * inverse, dy.astype("float64")
    g = dy * scale
    dx = inverse * (g - normed * (g * normed).mean(-1, keepdims=True))
    return dx, (dy * normed).reshape(-1, x.shape[-1]).sum(0)


def layer_norm(x, scale, bias, epsilon):
    mean = x.mean(-1, keepdims=True)
    inverse = 1 / np.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + epsilon)
    return (x - mean) * inverse * scale + bias, mean, inverse


def layer_norm_grad(x, scale, mean, inverse, dy):
    normed, columns, dy = (x - mean) * inverse, x.shape[-1], dy.astype("float64")
    g = dy * scale
    dx = inverse * (g - g.mean(-1, keepdims=True) - normed * (g * normed).mean(-1, keepdims=True))
    return dx, (dy * normed).reshape(-1, columns).sum(0), dy.reshape(-1, columns).sum(0)


def rope(x, cos, sin, interleaved):
    if interleaved:
        a, b = x[..., 0::2], x[..., 1::2]
        return np.stack([a * cos - b * sin, b * cos + a * sin], -1).reshape(x.shape)
    a, b = np.split(x, 2, -1)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def swiglu(gate, up):
    return gate * sigmoid(gate) * up


def swiglu_grad(gate, up, dy):
    s = sigmoid(gate)
    return dy * up * s * (1 + gate * sigmoid(-gate)), dy * gate * s


def adamw(weight, moment1, moment2, gradient, lr, beta1, beta2, epsilon, decay, correction1, correction2, factor):
    g = gradient * factor
    m1, m2 = beta1 * moment1 + (1 - beta1) * g, beta2 * moment2 + (1 - beta2) * g * g
    step = lr * (m1 / correction1) / (np.sqrt(m2 / correction2) + epsilon)
    return weight * (1 - lr * decay) - step, m1, m2
