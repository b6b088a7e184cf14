"""softmax, log_softmax, logsumexp and gradients against float64."""

import numpy as np
import pytest
from calls import FLOATS, array, bind, close, normal, on_threads, run, spec, storage, wide

from treadle_backend_cpu.kernels import softmax as module

SHAPES = [
    ((4, 5), 1),
    ((4, 5), 0),
    ((7,), 0),
    ((2, 3, 4), 1),
    ((3, 67), 1),
    ((64, 10), 1),
    ((5, 1), 1),
    ((1, 1), 0),
    ((3, 200, 150), 1),
    ((2, 21, 130), 1),
    ((70, 515), 1),
    ((515, 70), 0),
    ((6, 4, 3), 0),
    ((2, 1000, 3), 1),
]
INF, NAN = np.inf, np.nan
GRADS = {"softmax": "softmax_grad", "log_softmax": "log_softmax_grad"}


def shifted(x, axis):
    top = x.max(axis, keepdims=True)
    return x - top, top


def lse(x, axis):
    d, top = shifted(x, axis)
    return (top + np.log(np.exp(d).sum(axis, keepdims=True))).squeeze(axis)


def expected(op, x, axis):
    d, _ = shifted(x, axis)
    y = d - np.log(np.exp(d).sum(axis, keepdims=True))
    return np.exp(y) if op == "softmax" else y


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
@pytest.mark.parametrize("op", GRADS)
def test_forward(op, shape, axis, name):
    x = normal(shape, name, scale=3)
    (y,) = on_threads(lambda: run(module, op, [x], [spec(shape, name)], axis=axis))
    close(y, expected(op, *wide(x), axis), name, 2)


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
@pytest.mark.parametrize("op", GRADS)
def test_gradient(op, shape, axis, name):
    g, y = normal(shape, name), expected(op, normal(shape, seed=1), axis).astype(normal((), name).dtype)
    (gx,) = on_threads(lambda: run(module, GRADS[op], [g, y], [spec(shape, name)], axis=axis))
    g, y = wide(g, y)
    want = y * (g - (g * y).sum(axis, keepdims=True))
    if op == "log_softmax":
        want = g - np.exp(y) * g.sum(axis, keepdims=True)
    close(gx, want, name, 4)


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_logsumexp(shape, axis, name):
    x = normal(shape, name, scale=3)
    out = spec(shape[:axis] + shape[axis + 1 :], name)
    (y,) = on_threads(lambda: run(module, "logsumexp", [x], [out], axes=(axis,), keepdims=False))
    close(y, lse(*wide(x), axis), name, 2)


def test_logsumexp_of_several_axes():
    x = normal((3, 4, 5, 6), "float32")
    y = run(module, "logsumexp", [x], [spec((3, 6), "float32")], axes=(1, 2), keepdims=False)
    close(y, lse(*wide(x.reshape(3, 20, 6)), 1), "float32")
    y = run(module, "logsumexp", [x], [spec((1, 1, 1, 1), "float32")], axes=(0, 1, 2, 3), keepdims=True)
    close(y, lse(*wide(x.reshape(-1)), 0).reshape(1, 1, 1, 1), "float32")
    y = run(module, "logsumexp", [x], [spec(x.shape, "float32")], axes=(), keepdims=False)
    close(y, x, "float32")
    assert bind(module, "logsumexp", [x], [spec((4, 6), "float32")], axes=(0, 2), keepdims=False) is None


SPECIAL = [[NAN, 1], [-INF, -INF], [INF, 1], [-INF, 1], [INF, INF], [INF, -INF], [NAN, INF], [NAN, -INF], [2, 1]]


@pytest.mark.parametrize("inner", [1, 3, 64])
@pytest.mark.parametrize("name", FLOATS)
def test_nan_and_infinity_stay_in_their_row(name, inner):
    rows = [pair + [pair[1]] * 20 for pair in SPECIAL]
    x = np.repeat(np.array(rows)[:, :, None], inner, 2).astype(normal((), name).dtype)
    out, (w,) = spec(x.shape, name), wide(x)
    with np.errstate(invalid="ignore", divide="ignore"):
        y, log = expected("softmax", w, 1), expected("log_softmax", w, 1)
        total = np.logaddexp.reduce(w, axis=1)
    close(run(module, "softmax", [x], [out], axis=1), y, name, 2)
    close(run(module, "log_softmax", [x], [out], axis=1), log, name, 2)
    close(run(module, "logsumexp", [x], [spec((9, inner), name)], axes=(1,), keepdims=False), total, name, 2)


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0,), (2, 0, 3), (2, 3, 0), (0, 0)])
@pytest.mark.parametrize("op", ["softmax", "log_softmax"])
def test_empty(op, shape, name):
    x = np.empty(shape, normal((), name).dtype)
    assert run(module, op, [x], [spec(shape, name)], axis=len(shape) - 1).shape == shape
    assert run(module, op + "_grad", [x, x], [spec(shape, name)], axis=0).shape == shape


def test_logsumexp_of_nothing_is_minus_infinity():
    x = np.empty((2, 0, 3), np.float32)
    y = run(module, "logsumexp", [x], [spec((2, 3), "float32")], axes=(1,), keepdims=False)
    assert (y == -np.inf).all()
    y = run(module, "logsumexp", [x], [spec((2, 0), "float32")], axes=(2,), keepdims=False)
    assert y.shape == (2, 0)


def test_a_number_alone():
    assert run(module, "softmax", [normal((), "float32")], [spec((), "float32")], axis=0) == 1


def test_large_differences_and_large_values():
    x = np.array([[0, -1e30, -87, -88, -104, -3e38], [1e38, 1e38, -1e38, 0, 1, 1e38]], np.float32)
    close(run(module, "softmax", [x], [spec(x.shape, "float32")], axis=1), expected("softmax", *wide(x), 1), "float32")
    close(
        run(module, "log_softmax", [x], [spec(x.shape, "float32")], axis=1),
        expected("log_softmax", *wide(x), 1),
        "float32",
    )


def test_exp_is_accurate():
    x = np.linspace(-87, 0, 200_001).astype(np.float32).reshape(1, -1)
    zero = np.zeros_like(x)
    zero[0, 0] = -1  # so that gx = 0 - exp(x) * -1
    y = run(module, "log_softmax_grad", [zero, x], [spec(x.shape, "float32")], axis=1)[0, 1:]
    want = np.exp(x.astype(np.float64))[0, 1:]
    assert (np.abs(y - want) / np.spacing(want.astype(np.float32))).max() < 1.3


@pytest.mark.parametrize("op", ["softmax", "log_softmax"])
def test_results_larger_than_the_caches(op):
    x = normal((8200, 1024), "float32")
    y = run(module, op, [x], [spec(x.shape, "float32")], axis=1)
    close(y[::97], expected(op, *wide(x[::97]), 1), "float32", 2)


def test_output_may_be_the_input():
    x = normal((33, 70), "float32")
    want = run(module, "softmax", [x], [spec(x.shape, "float32")], axis=1)
    out = spec(x.shape, "float32")
    kernel, s = bind(module, "softmax", [x], [out], axis=1), storage(x.copy())
    kernel(s, s)
    assert array(s, out).tobytes() == want.tobytes()
