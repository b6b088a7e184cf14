"""Layer and batch normalisation, their gradients and inference, against float64."""

import numpy as np
import pytest
from calls import FLOATS, close, normal, on_threads, run, spec, statistic, wide

from treadle_backend_cpu.kernels import norm as module

LN = [
    ((4, 5), 1),
    ((2, 3, 4), 1),
    ((2, 3, 4), 2),
    ((7,), 1),
    ((3, 67), 1),
    ((130, 256), 1),
    ((6, 1000), 1),
    ((5, 1), 1),
]
BN = [
    (4, 3),
    (2, 3, 4, 5),
    (5, 3, 2),
    (8, 3, 7, 7),
    (8, 64, 32, 32),
    (700, 20),
    (3, 5, 31),
    (3, 5, 33),
    (2, 2, 40000),
    (600, 3, 64),
    (1, 4, 100),
    (1030, 70, 2),
]


def params(n, name, which="wb"):
    w = normal(n, name, 5, 0.5, 1) if "w" in which else None
    b = normal(n, name, 6) if "b" in which else None
    return w, b


# ---- layer norm ----------------------------------------------------------------------------------------------------


def layer_norm(x, w, b, axes, eps):
    mean = x.mean(axes, keepdims=True)
    rstd = 1 / np.sqrt(((x - mean) ** 2).mean(axes, keepdims=True) + eps)
    y = (x - mean) * rstd * (1 if w is None else w) + (0 if b is None else b)
    return y, mean, rstd


def ln_outs(shape, ndim, name):
    rows = shape[: len(shape) - ndim] + (1,) * ndim
    return [spec(shape, name), spec(rows, statistic(name)), spec(rows, statistic(name))]


@pytest.mark.parametrize("which", ["wb", "w", "b", ""])
@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize(("shape", "ndim"), LN)
def test_layer_norm(shape, ndim, name, which):
    x = normal(shape, name, scale=2, mean=1)
    w, b = params(shape[len(shape) - ndim :], name, which)
    outs = ln_outs(shape, ndim, name)
    y, mean, rstd = on_threads(lambda: run(module, "layer_norm", [x, w, b], outs, ndim=ndim, eps=1e-3))
    want = layer_norm(*wide(x, w, b), tuple(range(len(shape) - ndim, len(shape))), 1e-3)
    close(y, want[0], name, 4)
    close(mean, want[1], statistic(name), 2)
    close(rstd, want[2], statistic(name), 2)


def test_layer_norm_without_its_statistics():
    x = normal((4, 5), "float32")
    outs = ln_outs((4, 5), 1, "float32")
    y, mean, rstd = run(module, "layer_norm", [x, None, None], outs, ndim=1, eps=1e-5)
    assert (run(module, "layer_norm", [x, None, None], outs[:1], ndim=1, eps=1e-5) == y).all()
    only = run(module, "layer_norm", [x, None, None], outs, (True, False, True), ndim=1, eps=1e-5)
    assert (only[0] == y).all() and only[1] is None and (only[2] == rstd).all()
    only = run(module, "layer_norm", [x, None, None], outs, (False, True, False), ndim=1, eps=1e-5)
    assert only[0] is None and (only[1] == mean).all()


@pytest.mark.parametrize("which", ["w", ""])
@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize(("shape", "ndim"), LN[:-1])  # one element: the gradient is 0 but for rounding
def test_layer_norm_gradient(shape, ndim, name, which):
    split = len(shape) - ndim
    g, x = normal(shape, name, 1), normal(shape, name, 2)
    w, _ = params(shape[split:], name, which)
    axes, outer = tuple(range(split, len(shape))), tuple(range(split))
    _, mean, rstd = layer_norm(*wide(x, None, None), axes, 1e-5)
    mean, rstd = mean.astype(statistic(name)), rstd.astype(statistic(name))
    outs = [spec(shape, name), spec(shape[split:], name), spec(shape[split:], name)]
    gx, gw, gb = on_threads(lambda: run(module, "layer_norm_grad", [g, x, w, mean, rstd], outs, ndim=ndim))
    g, x, w, mean, rstd = wide(g, x, w, mean, rstd)
    h, d = (x - mean) * rstd, g * (1 if w is None else w)
    close(gx, rstd * (d - d.mean(axes, keepdims=True) - h * (d * h).mean(axes, keepdims=True)), name, 8)
    close(gw, (g * h).sum(outer), name, 8)
    close(gb, g.sum(outer), name, 8)


@pytest.mark.parametrize("name", ["float16", "float32"])
@pytest.mark.parametrize(
    "want", [(True, False, False), (False, True, False), (False, False, True), (True, False, True), (False,) * 3]
)
def test_layer_norm_gradient_in_part(want, name):
    g, x, w = normal((37, 50), name, 1), normal((37, 50), name, 2), normal(50, name, 3)
    mean, rstd = normal((37, 1), name), normal((37, 1), name) ** 2
    outs = [spec((37, 50), name), spec((50,), name), spec((50,), name)]
    whole = run(module, "layer_norm_grad", [g, x, w, mean, rstd], outs, ndim=1)
    part = run(module, "layer_norm_grad", [g, x, w, mean, rstd], outs, want, ndim=1)
    for wanted, one, other in zip(want, part, whole, strict=True):
        assert one.tobytes() == other.tobytes() if wanted else one is None


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0)])
def test_layer_norm_of_nothing(shape):
    x = np.empty(shape, np.float32)
    p = np.ones(shape[1], np.float32)
    s = np.ones((shape[0], 1), np.float32)
    assert run(module, "layer_norm", [x, p, p], ln_outs(shape, 1, "float32"), ndim=1, eps=1e-5)[0].shape == shape
    outs = [spec(shape, "float32"), spec(p.shape, "float32"), spec(p.shape, "float32")]
    _, gw, gb = run(module, "layer_norm_grad", [x, x, p, s, s], outs, ndim=1)
    assert (gw == 0).all() and (gb == 0).all()


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_layer_norm_far_from_zero(name):
    x = normal((50, 300), name, scale=1e-2, mean=1e4)
    y, mean, rstd = run(module, "layer_norm", [x, None, None], ln_outs(x.shape, 1, name), ndim=1, eps=1e-8)
    want = layer_norm(x.astype(np.longdouble), None, None, 1, 1e-8)
    close(y, want[0], name, 4)
    close(rstd, want[2], name, 4)


def test_layer_norm_nan_stays_in_its_row():
    x = normal((4, 40), "float32")
    x[1, 3], x[2, 5] = np.nan, np.inf
    y = run(module, "layer_norm", [x, None, None], ln_outs(x.shape, 1, "float32")[:1], ndim=1, eps=1e-5)
    assert np.isnan(y[1:3]).all() and np.isfinite(y[[0, 3]]).all()


def test_layer_norm_larger_than_the_caches():
    x = normal((8200, 1024), "float32")
    y = run(module, "layer_norm", [x, None, None], ln_outs(x.shape, 1, "float32")[:1], ndim=1, eps=1e-5)
    close(y[::97], layer_norm(*wide(x[::97], None, None), 1, 1e-5)[0], "float32", 4)


# ---- batch norm ----------------------------------------------------------------------------------------------------


def axes_of(shape):
    return tuple(k for k in range(len(shape)) if k != 1)


def along(v, shape):
    return v.reshape([n if k == 1 else 1 for k, n in enumerate(shape)])


def bn_outs(shape, name, others):
    return [spec(shape, name), spec((shape[1],), others), spec((shape[1],), others)]


@pytest.mark.parametrize("which", ["wb", ""])
@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("shape", BN)
def test_batch_norm(shape, name, which):
    x = normal(shape, name, scale=2, mean=1)
    w, b = params(shape[1], name, which)
    outs = bn_outs(shape, name, statistic(name))
    y, mean, var = on_threads(lambda: run(module, "batch_norm", [x, w, b], outs, eps=1e-3))
    x, w, b = wide(x, w, b)
    m, v = x.mean(axes_of(shape)), x.var(axes_of(shape))
    want = (x - along(m, shape)) / np.sqrt(along(v, shape) + 1e-3)
    want = want if w is None else want * along(w, shape) + along(b, shape)
    close(y, want, name, 4)
    close(mean, m, statistic(name), 2)
    close(var, v, statistic(name), 2)


@pytest.mark.parametrize("which", ["w", ""])
@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("shape", BN)
def test_batch_norm_gradient(shape, name, which):
    g, x = normal(shape, name, 1), normal(shape, name, 2, mean=0.5)
    w, _ = params(shape[1], name, which)
    axes = axes_of(shape)
    mean, var = (f(axes).astype(statistic(name)) for f in (wide(x)[0].mean, wide(x)[0].var))
    outs = bn_outs(shape, name, name)
    gx, gw, gb = on_threads(lambda: run(module, "batch_norm_grad", [g, x, w, mean, var], outs, eps=1e-3))
    g, x, w, mean, var = wide(g, x, w, mean, var)
    rstd = 1 / np.sqrt(var + 1e-3)
    h = (x - along(mean, shape)) * along(rstd, shape)
    scale = along(rstd if w is None else w * rstd, shape)
    mean_gh, mean_g = (g * h).mean(axes, keepdims=True), g.mean(axes, keepdims=True)
    close(gx, scale * (g - mean_g - h * mean_gh), name, 8)
    close(gw, (g * h).sum(axes), name, 8)
    close(gb, g.sum(axes), name, 8)


@pytest.mark.parametrize("shape", [(6, 5), (3, 4, 50)])
@pytest.mark.parametrize("want", [(True, False, False), (False, True, False), (False, False, True), (False,) * 3])
def test_batch_norm_gradient_in_part(want, shape):
    g, x = normal(shape, "float32", 1), normal(shape, "float32", 2)
    mean, var, w = (np.abs(normal(shape[1], "float32", k)) for k in (3, 4, 5))
    outs = bn_outs(shape, "float32", "float32")
    whole = run(module, "batch_norm_grad", [g, x, w, mean, var], outs, eps=1e-3)
    part = run(module, "batch_norm_grad", [g, x, w, mean, var], outs, want, eps=1e-3)
    for wanted, one, other in zip(want, part, whole, strict=True):
        assert one.tobytes() == other.tobytes() if wanted else one is None


@pytest.mark.parametrize("which", ["wb", "w", "b", ""])
@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("shape", BN)
def test_batch_norm_inference(shape, name, which):
    x = normal(shape, name)
    w, b = params(shape[1], name, which)
    mean, var = normal(shape[1], name, 3), np.abs(normal(shape[1], name, 4))
    (y,) = on_threads(lambda: run(module, "batch_norm_inference", [x, mean, var, w, b], [spec(shape, name)], eps=1e-3))
    x, mean, var, w, b = wide(x, mean, var, w, b)
    want = (x - along(mean, shape)) / np.sqrt(along(var, shape) + 1e-3) * (1 if w is None else along(w, shape))
    close(y, want + (0 if b is None else along(b, shape)), name, 4)


@pytest.mark.parametrize("shape", [(300, 7), (4, 5, 4), (8, 3, 64), (2, 2, 70000)])
@pytest.mark.parametrize("name", ["float32", "float64"])
def test_batch_norm_far_from_zero(shape, name):
    x = normal(shape, name, scale=1e-2, mean=1e4)
    y, mean, var = run(module, "batch_norm", [x, None, None], bn_outs(shape, name, name), eps=1e-8)
    x = x.astype(np.longdouble)
    m, v = x.mean(axes_of(shape)), x.var(axes_of(shape))
    close(var, v, name, 4 if name == "float32" else 1e4)
    close(y, (x - along(m, shape)) / np.sqrt(along(v, shape) + 1e-8), name, 8 if name == "float32" else 1e5)


def test_batch_norm_of_a_constant():
    x = np.full((4, 3, 50), 7.3, np.float32)
    y, mean, var = run(module, "batch_norm", [x, None, None], bn_outs(x.shape, "float32", "float32"), eps=1e-5)
    assert np.allclose(mean, 7.3) and (var < 1e-12).all() and (np.abs(y) < 1e-3).all()


@pytest.mark.parametrize("shape", [(0, 3, 2), (0, 3, 50), (3, 0, 2), (3, 0, 50), (3, 2, 0), (0, 0)])
def test_batch_norm_of_nothing(shape):
    x, p = np.empty(shape, np.float32), np.ones(shape[1], np.float32)
    outs = bn_outs(shape, "float32", "float32")
    assert run(module, "batch_norm", [x, p, p], outs, eps=1e-5)[0].shape == shape
    gx, gw, gb = run(module, "batch_norm_grad", [x, x, p, p, p], outs, eps=1e-5)
    assert gx.shape == shape and (gw == 0).all() and (gb == 0).all()
    assert run(module, "batch_norm_inference", [x, p, p, p, p], outs[:1], eps=1e-5).shape == shape


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 40)])
def test_batch_norm_nan_stays_in_its_channel(shape):
    x = normal(shape, "float32")
    x[(1, 1) + (0,) * (len(shape) - 2)] = np.nan
    y, mean, var = run(module, "batch_norm", [x, None, None], bn_outs(shape, "float32", "float32"), eps=1e-5)
    assert np.isnan(y[:, 1]).all() and np.isfinite(y[:, [0, 2]]).all() and np.isnan(var[1])


def test_parameters_may_be_wider_than_the_data():
    x, w, b = normal((6, 40), "bfloat16"), normal(40, "float32", 1), normal(40, "float32", 2)
    y = run(module, "layer_norm", [x, w, b], ln_outs(x.shape, 1, "bfloat16")[:1], ndim=1, eps=1e-5)
    close(y, layer_norm(*wide(x, w, b), 1, 1e-5)[0], "bfloat16", 2)
