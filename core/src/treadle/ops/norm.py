"""Layer and batch normalisation (Ba et al. 2016; Ioffe and Szegedy 2015), with their gradients as ops of their own."""

import math
from typing import Any

from treadle.dtypes import float32
from treadle.errors import ArgumentError, ShapeError
from treadle.op import MIXED, Op, composite
from treadle.ops.elementwise import rsqrt
from treadle.ops.manipulation import reshape
from treadle.ops.reduction import mean, sum_, sum_to
from treadle.ops.samples import raises, s, t
from treadle.shapes import equal, numel
from treadle.spec import Spec


def _wide(x: Spec) -> Any:
    return float32 if x.dtype.itemsize == 2 else x.dtype


# ---- layer norm: over the last `ndim` axes -------------------------------------------------------------------------
def _trailing(x: Any, ndim: int) -> Any:
    return tuple(range(x.ndim - ndim, x.ndim))


def _ln_check(x: Spec, ndim: int) -> None:
    if not 1 <= ndim <= x.ndim:
        raise ArgumentError(f"layer_norm: ndim {ndim} must be in [1, {x.ndim}] for input {x.shape}")


def _ln_spec(x: Spec, w: Spec | None = None, b: Spec | None = None, ndim: int = 1, eps: float = 1e-5) -> Spec:
    _ln_check(x, ndim)
    for name, p in (("weight", w), ("bias", b)):
        if p is not None and p.shape != x.shape[x.ndim - ndim :]:
            raise ShapeError(
                f"layer_norm: {name} {p.shape} must equal the normalised shape {x.shape[x.ndim - ndim :]} "
                f"of the input {x.shape}"
            )
    return x


def _ln_stats(x: Any, ndim: int = 1, eps: float = 1e-5) -> Any:
    m = mean(x, _trailing(x, ndim), True)
    d = x - m
    return m, rsqrt(mean(d * d, _trailing(x, ndim), True) + eps)


def _ln_stats_spec(x: Spec, ndim: int = 1, eps: float = 1e-5) -> Any:
    _ln_check(x, ndim)
    shape = x.shape[: x.ndim - ndim] + (1,) * ndim
    return Spec(shape, _wide(x)), Spec(shape, _wide(x))


def _ln(x: Any, w: Any, b: Any, mean: Any, rstd: Any, ndim: int = 1, eps: float = 1e-5) -> Any:
    y = (x - mean) * rstd
    y = y if w is None else y * w
    return y if b is None else y + b


def _ln_grad(g: Any, x: Any, w: Any, mean: Any, rstd: Any, ndim: int = 1) -> Any:
    axes = _trailing(x, ndim)
    n = 1.0 / math.prod(x.shape[a] for a in axes) if 0 not in x.shape else 0.0
    hat = (x - mean) * rstd
    h = g if w is None else g * w
    gx = rstd * (h - sum_(h, axes, True) * n - hat * (sum_(h * hat, axes, True) * n))
    shape = x.shape[x.ndim - ndim :]
    return gx, sum_to(g * hat, shape), sum_to(g, shape)


def _ln_grad_spec(g: Spec, x: Spec, w: Spec | None, mean: Spec, rstd: Spec, ndim: int = 1) -> Any:
    equal("layer_norm_grad", g.shape, _ln_spec(x, w, None, ndim).shape)
    equal("layer_norm_grad", mean.shape, rstd.shape, _ln_stats_spec(x, ndim)[0].shape)
    weight = Spec(x.shape[x.ndim - ndim :], x.dtype)
    return x, weight, weight


LN = [s((4, 5), (5,), (5,)), s((2, 3, 4), (4,), None), s((2, 3, 4), (3, 4), (3, 4), ndim=2), s((7,), None, None),
    s((0, 5), (5,), (5,)), s((3, 67), (67,), (67,), eps=1e-3)]
layer_norm_stats: Op = composite("layer_norm_stats", "x -> mean rstd", _ln_stats, spec=_ln_stats_spec,
    batch="x:* -> * *",
    samples=[s((4, 5)), s((2, 3, 4), ndim=2)], num=MIXED,
    doc="Return mean and reciprocal standard deviation over the last axes.",
    errors=[raises(ArgumentError, "ndim", (4, 5), ndim=3)])
layer_norm_grad: Op = composite("layer_norm_grad", "g x w? mean rstd -> gx gw gb", _ln_grad, num=MIXED,
    spec=_ln_grad_spec,
    samples=[s((4, 5), (4, 5), (5,), (4, 1), t(4, 1, kind="positive")),
        s((2, 3, 4), (2, 3, 4), None, (2, 1, 1), t(2, 1, 1, kind="positive"), ndim=2)],
    doc="Return the gradients of layer_norm for its input, weight and bias.",
    errors=[raises(ShapeError, "must be equal", (4, 5), (5, 4), None, (5, 1), (5, 1))])
layer_norm: Op = composite("layer_norm", "x w? b? -> y", _ln, {"x w b": layer_norm_grad},
    aux=(layer_norm_stats, "mean rstd"), spec=_ln_spec, samples=LN, num=MIXED,
    batch="x:* -> *",
    doc="Normalise over the last axes, then scale and shift (Ba et al. 2016).",
    errors=[raises(ShapeError, "weight", (4, 5), (4,), None),
        raises(ArgumentError, "ndim", (4, 5), None, None, ndim=3)])


# ---- batch norm: over all axes but 1 -------------------------------------------------------------------------------
def _channels(x: Any) -> Any:
    return tuple(d for d in range(x.ndim) if d != 1)


def along(v: Any, x: Any) -> Any:
    """(C,) -> (1, C, 1, ...) to go with x (N, C, ...)."""
    return reshape(v, tuple(n if d == 1 else 1 for d, n in enumerate(x.shape)))


def _bn_check(x: Spec, *params: Spec | None) -> None:
    if x.ndim < 2:
        raise ShapeError(f"batch_norm: input (N, C, ...) needs two dimensions or more: {x.shape}")
    for p in params:
        if p is not None and p.shape != (x.shape[1],):
            raise ShapeError(
                f"batch_norm: weight, bias and statistics must be ({x.shape[1]},) for input {x.shape}: {p.shape}"
            )


def _bn_spec(x: Spec, w: Spec | None = None, b: Spec | None = None, eps: float = 1e-5) -> Any:
    _bn_check(x, w, b)
    stats = Spec((x.shape[1],), _wide(x))
    return x, stats, stats


def _bn(x: Any, w: Any = None, b: Any = None, eps: float = 1e-5) -> Any:
    axes = _channels(x)
    m = mean(x, axes)
    d = x - along(m, x)
    v = mean(d * d, axes)
    y = d * along(rsqrt(v + eps), x)
    y = y if w is None else y * along(w, x)
    return (y if b is None else y + along(b, x)), m, v


def _bn_grad(g: Any, x: Any, w: Any, mean: Any, var: Any, eps: float = 1e-5) -> Any:
    axes = _channels(x)
    n = x.shape[1] / numel(x.shape) if 0 not in x.shape else 0.0
    rstd = rsqrt(var + eps)
    hat = (x - along(mean, x)) * along(rstd, x)
    gb, gw = sum_(g, axes), sum_(g * hat, axes)
    scale = rstd if w is None else rstd * w
    return along(scale, x) * (g - along(gb * n, x) - hat * along(gw * n, x)), gw, gb


def _bn_rule(g_y: Any, g_mean: Any, g_var: Any, x: Any, w: Any, mean: Any, var: Any, eps: float, need: Any) -> Any:
    if g_y is None:
        gx, gw, gb = None, None, None
    else:
        gx, gw, gb = batch_norm_grad(g_y, x, w, mean, var, eps, want=need)
    n = x.shape[1] / numel(x.shape) if 0 not in x.shape else 0.0
    if g_mean is not None:
        gx = along(g_mean * n, x) + (x * 0 if gx is None else gx)
    if g_var is not None:
        gx = along(g_var * (2.0 * n), x) * (x - along(mean, x)) + (0.0 if gx is None else gx)
    return gx, gw, gb


def _bn_grad_spec(g: Spec, x: Spec, w: Spec | None, mean: Spec, var: Spec, eps: float = 1e-5) -> Any:
    equal("batch_norm_grad", g.shape, x.shape)
    _bn_check(x, w, mean, var)
    weight = Spec((x.shape[1],), x.dtype)
    return x, weight, weight


def _bn_inference_spec(x: Spec, mean: Spec, var: Spec, w: Spec | None = None, b: Spec | None = None,
        eps: float = 1e-5) -> Spec:
    _bn_check(x, mean, var, w, b)
    return x


def _bn_inference(x: Any, mean: Any, var: Any, w: Any = None, b: Any = None, eps: float = 1e-5) -> Any:
    scale = rsqrt(var + eps)
    scale = scale if w is None else scale * w
    y = (x - along(mean, x)) * along(scale, x)
    return y if b is None else y + along(b, x)


P = t(3, kind="positive")
batch_norm_grad: Op = composite("batch_norm_grad", "g x w? mean var -> gx gw gb", _bn_grad, num=MIXED,
    batch="g:1 x:1 w:0 mean:0 var:0 -> 1 0 0",
    spec=_bn_grad_spec,
    samples=[s((4, 3), (4, 3), (3,), (3,), P), s((2, 3, 4, 5), (2, 3, 4, 5), None, (3,), P)],
    doc="Return the gradients of batch_norm for its input, weight and bias.",
    errors=[raises(ShapeError, "must be equal", (4, 3), (4, 2), None, (2,), (2,))])
batch_norm: Op = composite("batch_norm", "x w? b? -> y mean var", _bn, {"x w b": _bn_rule}, spec=_bn_spec, num=MIXED,
    batch="x:1 w:0 b:0 -> 1 0 0",
    samples=[s((4, 3), (3,), (3,)), s((2, 3, 4, 5), (3,), (3,)), s((5, 3, 2), None, None),
        s((8, 3, 7, 7), (3,), None, eps=1e-3)],
    doc="Normalise over all axes but 1 with the batch's statistics, which are results too (Ioffe and Szegedy 2015).",
    errors=[raises(ShapeError, "two dimensions", (4,), None, None),
        raises(ShapeError, "weight, bias", (4, 3), (4,), None)])
batch_norm_inference: Op = composite("batch_norm_inference", "x mean var w? b? -> y", _bn_inference,
    batch="x:0 -> 0 | x:1 mean:0 var:0 w:0 b:0 -> 1",
    spec=_bn_inference_spec, num=MIXED,
    samples=[s((4, 3), (3,), P, (3,), (3,)), s((2, 3, 4, 5), (3,), P, None, None), s((0, 3, 2), (3,), P, (3,), (3,))],
    doc="Normalise over all axes but 1 with given statistics.",
    errors=[raises(ShapeError, "weight, bias", (4, 3), (3,), (2,), None, None)])
