"""Cross entropy and its gradient against float64."""

import numpy as np
import pytest
from calls import FLOATS, HALVES, close, normal, on_threads, run, spec, statistic, wide

import treadle as td
from treadle_backend_cpu.kernels import loss as module

SHAPES = [(4, 5), (64, 10), (1, 1), (7, 3), (130, 515), (300, 100)]
CASES = [
    (reduction, smoothing, weighted, ignore)
    for reduction in ("mean", "sum", "none")
    for smoothing, weighted, ignore in ((0.0, False, -100), (0.0, True, 0), (0.1, False, 1), (0.3, True, -100))
]


def coefficients(t, w, n, smoothing, ignore):
    """The a of -sum(a log p) per row and class, and the weight of each row."""
    valid = t != ignore
    hit = (t[:, None] == np.arange(n)) * valid[:, None]
    a = hit * w * (1 - smoothing) + valid[:, None] * w * smoothing / n
    return a, (hit * w).sum(1)


def log_sum(x):
    top = x.max(1, keepdims=True)
    return top + np.log(np.exp(x - top).sum(1, keepdims=True))


def reference(x, t, w, smoothing, ignore, reduction):
    a, weight = coefficients(t, w, x.shape[1], smoothing, ignore)
    rows = -(a * (x - log_sum(x))).sum(1)
    return rows if reduction == "none" else rows.sum() if reduction == "sum" else rows.sum() / weight.sum()


def problem(shape, name, weighted, ignore):
    rng = np.random.default_rng(1)
    t = rng.integers(0, shape[1], shape[0])
    t[:-1:3] = np.where(rng.random(t[:-1:3].shape) < 0.5, ignore, t[:-1:3])
    x, w = normal(shape, name, 2, 3), np.abs(normal(shape[1], name, 3)) + normal((), name) ** 2
    return x, t, w.astype(x.dtype) if weighted else None


def attributes(reduction, smoothing, ignore):
    return {"reduction": reduction, "label_smoothing": smoothing, "ignore_index": ignore}


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize(("reduction", "smoothing", "weighted", "ignore"), CASES)
@pytest.mark.parametrize("shape", SHAPES)
def test_cross_entropy(shape, reduction, smoothing, weighted, ignore, name):
    x, t, w = problem(shape, name, weighted, ignore)
    t[-1] = (ignore + 1) % shape[1] if ignore >= 0 and shape[1] > 1 else 0
    outs = [spec(shape[:1] if reduction == "none" else (), name), spec(shape[:1], statistic(name))]
    attrs = attributes(reduction, smoothing, ignore)
    y, lse = on_threads(lambda: run(module, "cross_entropy", [x, t, w], outs, **attrs))
    x, w = wide(x, w)
    with np.errstate(invalid="ignore", divide="ignore"):
        want = reference(x, t, np.ones(shape[1]) if w is None else w, smoothing, ignore, reduction)
    close(y, want, name, 4)
    close(lse, log_sum(x)[:, 0], statistic(name), 2)


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize(("reduction", "smoothing", "weighted", "ignore"), CASES)
@pytest.mark.parametrize("shape", SHAPES)
def test_gradient(shape, reduction, smoothing, weighted, ignore, name):
    x, t, w = problem(shape, name, weighted, ignore)
    lse = log_sum(*wide(x))[:, 0].astype(statistic(name))
    g = normal(shape[:1] if reduction == "none" else (), "float64", 4).astype(x.dtype)
    attrs = attributes(reduction, smoothing, ignore)
    (gx,) = on_threads(lambda: run(module, "cross_entropy_grad", [g, x, t, w, lse], [spec(shape, name)], **attrs))
    g, x, w, lse = wide(g, x, w, lse)
    a, weight = coefficients(t, np.ones(shape[1]) if w is None else w, shape[1], smoothing, ignore)
    with np.errstate(invalid="ignore", divide="ignore"):
        g = g / weight.sum() if reduction == "mean" else g
        want = np.reshape(g, (-1, 1)) * (a.sum(1, keepdims=True) * np.exp(x - lse[:, None]) - a)
    close(gx, np.where((t == ignore)[:, None], 0, want), name, 4, floor=1)


@pytest.mark.parametrize("name", HALVES)
def test_gradients_of_half_logits_are_those_of_float64_rounded(name):
    x, t, w = normal((64, 300), name, 2, 8), np.arange(64) * 4, np.abs(normal(300, name, 3)) + 1

    def gradients_in(dtype):
        logits, weight = (td.tensor(a.astype(np.float64)).to(getattr(td, dtype)).requires_grad_() for a in (x, w))
        td.nn.functional.cross_entropy(logits, td.tensor(t), weight=weight, reduction="sum").backward()
        return [a.grad.to(td.float64).numpy() for a in (logits, weight)]

    for one, want in zip(gradients_in(name), gradients_in("float64"), strict=True):
        rounding = np.square(want.astype(x.dtype) - want).sum()
        assert np.square(one - want).sum() < 1.01 * rounding


def test_gradient_is_that_of_the_loss():
    x, t, w = problem((6, 5), "float64", True, 2)
    attrs, out = attributes("mean", 0.2, 2), [spec((), "float64"), spec((6,), "float64")]
    _, lse = run(module, "cross_entropy", [x, t, w], out, **attrs)
    gx = run(module, "cross_entropy_grad", [np.ones(()), x, t, w, lse], [spec(x.shape, "float64")], **attrs)
    step, direction = 1e-6, normal(x.shape, seed=9)
    up, down = (run(module, "cross_entropy", [x + s * direction, t, w], out, **attrs)[0] for s in (step, -step))
    assert (up - down) / (2 * step) == pytest.approx((gx * direction).sum(), rel=1e-7)


@pytest.mark.parametrize("kind", ["int32", "int64"])
@pytest.mark.parametrize("bad", [-1, 5, 2**31 - 1, -(2**31)])
@pytest.mark.parametrize("op", ["cross_entropy", "cross_entropy_grad"])
def test_targets_outside_are_an_index_error(op, bad, kind):
    x, t = normal((4, 5), "float32"), np.array([0, 1, bad, 2], kind)
    attrs = attributes("mean", 0.0, -100)
    ins = [x, t, None] if op == "cross_entropy" else [np.ones((), np.float32), x, t, None, np.ones(4, np.float32)]
    out = spec((), "float32") if op == "cross_entropy" else spec(x.shape, "float32")
    with pytest.raises(IndexError, match=f"target {bad} at row 2"):
        run(module, op, ins, [out], **attrs)


@pytest.mark.parametrize("kind", ["int32", "int64"])
def test_target_types(kind):
    x, t = normal((4, 5), "float32"), np.array([0, 1, -100, 2], kind)
    y = run(module, "cross_entropy", [x, t, None], [spec((), "float32")], **attributes("sum", 0.0, -100))
    close(y, reference(*wide(x), t, np.ones(5), 0, -100, "sum"), "float32")


def test_everything_ignored():
    x, t = normal((4, 5), "float32"), np.full(4, -100)
    for reduction, want in (("sum", 0), ("mean", np.nan)):
        y = run(module, "cross_entropy", [x, t, None], [spec((), "float32")], **attributes(reduction, 0.1, -100))
        np.testing.assert_equal(float(y), want)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_no_rows(reduction):
    x, t = np.empty((0, 5), np.float32), np.empty(0, np.int64)
    out = spec((0,) if reduction == "none" else (), "float32")
    y = run(module, "cross_entropy", [x, t, None], [out], **attributes(reduction, 0.0, -100))
    np.testing.assert_equal(y, {"mean": np.float32(np.nan), "sum": np.float32(0), "none": np.empty(0)}[reduction])


def test_infinite_logits():
    inf, nan = np.inf, np.nan
    x = np.array([[0, -inf, 1], [0, -inf, 1], [0, inf, 1], [nan, 0, 1], [-inf, -inf, -inf]], np.float32)
    t = np.array([0, 1, 0, 1, 0])
    y = run(module, "cross_entropy", [x, t, None], [spec((5,), "float32")], **attributes("none", 0.0, -100))
    np.testing.assert_allclose(y, [np.log(1 + np.e), inf, nan, nan, nan], rtol=1e-6)
