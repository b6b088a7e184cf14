"""Cross-entropy over class indices: log-softmax and negative log-likelihood in one op, as PyTorch defines it."""

from typing import Any

import numpy as np

from treadle.dtypes import INTS, float32, int32
from treadle.errors import ArgumentError, DTypeError, ShapeError
from treadle.op import MIXED, Op, composite
from treadle.ops.elementwise import exp, where
from treadle.ops.indexing import as_int32, gather_nd
from treadle.ops.manipulation import reshape
from treadle.ops.reduction import sum_
from treadle.ops.samples import Arg, ints, raises, s
from treadle.ops.softmax import logsumexp
from treadle.spec import Spec


def _spec(
    x: Spec,
    t: Spec,
    w: Spec | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Spec:
    if x.ndim != 2 or t.shape != x.shape[:1]:
        raise ShapeError(f"cross_entropy: logits (N, C) and class indices (N,) expected: {x.shape}, {t.shape}")
    if t.dtype not in INTS:
        raise DTypeError(
            f"cross_entropy: class indices must be integers: {t.dtype}; probabilities go through "
            "nn.functional.cross_entropy"
        )
    if w is not None and w.shape != x.shape[1:]:
        raise ShapeError(f"cross_entropy: class weights {w.shape} must be (C,) = {x.shape[1:]}")
    if reduction not in ("mean", "sum", "none"):
        raise ArgumentError(f"cross_entropy: reduction must be 'mean', 'sum' or 'none': {reduction!r}")
    if not 0.0 <= label_smoothing <= 1.0:
        raise ArgumentError(f"cross_entropy: label_smoothing must lie in [0, 1]: {label_smoothing}")
    return Spec(x.shape[:1] if reduction == "none" else (), x.dtype)


def _grad_spec(
    g: Spec,
    x: Spec,
    t: Spec,
    w: Spec | None,
    lse: Spec,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Spec:
    y = _spec(x, t, w, label_smoothing, ignore_index, reduction)
    if g.shape != y.shape or lse.shape != x.shape[:1]:
        raise ShapeError(
            f"cross_entropy_grad: the gradient must be {y.shape} and lse {x.shape[:1]}: {g.shape}, {lse.shape}"
        )
    return x


def _lse_spec(x: Spec) -> Spec:
    if x.ndim != 2:
        raise ShapeError(f"cross_entropy: logits (N, C) expected: {x.shape}")
    # half precision would be an error of all probabilities that the gradient makes of it
    return Spec(x.shape[:1], float32 if x.dtype.itemsize == 2 else x.dtype)


def _parts(x: Any, t: Any, w: Any, ignore_index: int) -> Any:
    """(hit, valid, weight): one-hot targets (N, C), rows that count (N,), weight of each row's class (N,), zero where
    ignored."""
    t = as_int32(t)
    classes = x.new_arange(x.shape[1], dtype=int32)
    valid = t != ignore_index
    column = (t.shape[0], 1)
    hit = (reshape(t, column) == classes) & reshape(valid, column)
    count = x.shape[1]
    safe = where(valid, where(t < 0, count, t), 0)  # gather_nd refuses what is out of range
    weight = gather_nd(x.new_ones((count,)) if w is None else w, reshape(safe, column))
    return hit, valid.to(x.dtype), weight * valid.to(x.dtype)


def _loss(x: Any, t: Any, w: Any, lse: Any, label_smoothing: float = 0.0, ignore_index: int = -100,
        reduction: str = "mean") -> Any:
    hit, valid, weight = _parts(x, t, w, ignore_index)
    logp = x - reshape(lse, (x.shape[0], 1))
    rows = -weight * sum_(where(hit, logp, 0.0), (1,))
    if label_smoothing:
        smooth = -valid * sum_(logp if w is None else logp * w, (1,))
        rows = rows * (1.0 - label_smoothing) + smooth * (label_smoothing / x.shape[1])
    if reduction == "none":
        return rows
    total = sum_(rows, (0,))
    return total if reduction == "sum" else total / sum_(weight, (0,))


def _grad(g: Any, x: Any, t: Any, w: Any, lse: Any, label_smoothing: float = 0.0, ignore_index: int = -100,
        reduction: str = "mean") -> Any:
    hit, valid, weight = _parts(x, t, w, ignore_index)
    n = (x.shape[0], 1)
    p = exp(x - reshape(lse, n))
    gx = (p - hit.to(x.dtype)) * reshape(weight, n)
    if label_smoothing:
        spread = p * float(x.shape[1]) - 1.0 if w is None else p * sum_(w, (0,)) - w
        gx = gx * (1.0 - label_smoothing) + spread * reshape(valid, n) * (label_smoothing / x.shape[1])
    if reduction == "none":
        return gx * reshape(g, n)
    return gx * g if reduction == "sum" else gx * (g / sum_(weight, (0,)))


def _weight_grad(g: Any, x: Any, t: Any, w: Any, y: Any, lse: Any, label_smoothing: float, ignore_index: int,
        reduction: str) -> Any:
    to = w.dtype
    g, x, w, y = (a.to(lse.dtype) for a in (g, x, w, y))  # rounded once, at the end
    hit, valid, weight = _parts(x, t, w, ignore_index)
    n = (x.shape[0], 1)
    logp = x - reshape(lse, n)
    rate = reshape(g, n) if reduction == "none" else g if reduction == "sum" else g / sum_(weight, (0,))
    one = hit.to(x.dtype)
    shares = one * logp * (1.0 - label_smoothing) + reshape(valid, n) * logp * (label_smoothing / x.shape[1])
    if reduction == "mean":
        shares = shares + one * y  # the weights' sum divides: y is what each of its terms takes off
    return -sum_(shares * rate, (0,)).to(to)


def _reference(
    x: Any, t: Any, w: Any = None, label_smoothing: float = 0.0, ignore_index: int = -100, reduction: str = "mean"
) -> Any:
    valid = t != ignore_index
    bad = valid & ((t < 0) | (t >= x.shape[1]))
    if bad.any():
        raise IndexError(
            f"cross_entropy: target {t[bad][0]} is out of range for {x.shape[1]} classes (ignore_index {ignore_index})"
        )
    weights = np.ones(x.shape[1]) if w is None else w
    top = x.max(1, keepdims=True) if x.size else 0
    logp = x - top - np.log(np.exp(x - top).sum(1, keepdims=True))
    safe = np.where(valid, t, 0)
    weight = weights[safe] * valid
    rows = -weight * logp[np.arange(len(t)), safe] * (1 - label_smoothing) - valid * (logp * weights).sum(1) * (
        label_smoothing / x.shape[1]
    )
    return rows if reduction == "none" else rows.sum() / (weight.sum() if reduction == "mean" else 1)


CASES = [s((4, 5), ints(4, high=5), None), s((4, 5), ints(4, high=5), Arg((5,), "positive"), label_smoothing=0.1),
    s((7, 3), ints(7, high=3), None, ignore_index=1, reduction="sum"),
    s((64, 10), ints(64, high=10), None, label_smoothing=0.2, reduction="none"),
    s((6, 3), ints(6, high=3), Arg((3,), "positive"), ignore_index=2),
    s((4, 5), Arg((4,), "int32", 0, 5), None)]
cross_entropy_lse: Op = composite("cross_entropy_lse", "x -> lse", lambda x: logsumexp(x, (1,)), spec=_lse_spec,
    samples=[s((4, 5))], num=MIXED,
    doc="Return the log-sum-exp of every row of logits.",
    errors=[raises(ShapeError, "expected", (5,))])
cross_entropy_grad: Op = composite("cross_entropy_grad", "g x t w? lse -> gx", _grad, spec=_grad_spec, num=MIXED,
    samples=[s((4,) if c.attrs.get("reduction") == "none" else (), (4, 5), ints(4, high=5),
            c.args[2] and Arg((5,), "positive"), (4,),
            **c.attrs) for c in CASES],
    doc="Return the gradient of cross_entropy for its logits.",
    errors=[raises(ShapeError, "gradient", (3,), (4, 5), ints(4, high=5), None, (4,))])
cross_entropy: Op = composite("cross_entropy", "x t w? -> y", _loss, {"x": cross_entropy_grad, "w": _weight_grad},
    aux=(cross_entropy_lse, "lse"), spec=_spec,
    reference=_reference, samples=CASES,
    num=MIXED,
    doc="Return the cross-entropy of logits (N, C) and class indices (N,), with class weights, label "
    "smoothing and an index to ignore.",
    errors=[raises(IndexError, "out of range|outside", (2, 3), ints(2, low=3, high=4), None),
        raises(IndexError, "out of range|outside", (2, 3), ints(2, low=-1, high=0), None),
        raises(DTypeError, "must be integers", (2, 3), (2,), None),
        raises(ArgumentError, "reduction", (2, 3), ints(2, high=3), None, reduction="max")])
