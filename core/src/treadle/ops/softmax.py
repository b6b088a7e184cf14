"""Softmax, its logarithm, and logsumexp."""

from typing import Any

import numpy as np

from treadle.errors import DTypeError, ShapeError
from treadle.op import MIXED, Op, composite
from treadle.ops.elementwise import abs_, eq, exp, log, where
from treadle.ops.reduction import kept, max_, sum_
from treadle.ops.samples import ints, raises, s
from treadle.shapes import Shape, equal, reduced
from treadle.spec import Spec

AXIS = [s((4, 5), axis=1), s((4, 5), axis=0), s((7,), axis=0), s((2, 3, 4), axis=1), s((0, 3), axis=1),
    s((3, 67), axis=1), s((64, 10), axis=1), s((5, 1), axis=1)]
PAIR = [s(x.args[0], x.args[0], **x.attrs) for x in AXIS]


def _softmax(x: Any, axis: int) -> Any:
    e = exp(x - _safe_max(x, (axis,)))
    return e / sum_(e, (axis,), True)


def _grad_spec(g: Spec, y: Spec, axis: int) -> Spec:
    return Spec(equal("softmax_grad", g.shape, y.shape), g.dtype)


def _safe_max(x: Any, axes: Shape) -> Any:
    """The maximum as a constant: any constant gives the same result, so no gradient flows through it."""
    return max_(x.detach(), axes, True) if all(x.shape[a] for a in axes) else 0.0


def _softmax_reference(x: Any, axis: int) -> Any:
    e = np.exp(x - (x.max(axis, keepdims=True) if x.size else 0))
    return e / e.sum(axis, keepdims=True)


def _log_softmax_reference(x: Any, axis: int) -> Any:
    shifted = x - (x.max(axis, keepdims=True) if x.size else 0)
    return shifted - np.log(np.exp(shifted).sum(axis, keepdims=True))


def _log_softmax(x: Any, axis: int) -> Any:
    shifted = x - _safe_max(x, (axis,))
    return shifted - log(sum_(exp(shifted), (axis,), True))


def _lse(x: Any, axes: Shape, keepdims: bool = False) -> Any:
    top = _safe_max(x, axes)
    if top.__class__ is float:
        return log(sum_(exp(x), axes, keepdims))
    top = where(eq(abs_(top), float("inf")), 0.0, top)  # an infinite maximum would give inf - inf
    total = log(sum_(exp(x - top), axes, True)) + top
    return total if keepdims else total.reshape(reduced(x.shape, axes, False))


def _lse_reference(x: Any, axes: Shape, keepdims: bool = False) -> Any:
    top = x.max(axes, keepdims=True) if all(x.shape[a] for a in axes) else np.zeros(())
    top = np.where(np.isinf(top), 0.0, top)
    with np.errstate(divide="ignore"):
        y = np.log(np.exp(x - top).sum(axes, keepdims=True)) + top
    return y if keepdims else y.reshape(reduced(x.shape, axes, False))


softmax_grad: Op = composite("softmax_grad", "g y -> gx", lambda g, y, axis: y * (g - sum_(g * y, (axis,), True)),
    batch="axis",
    spec=_grad_spec, samples=PAIR, num=MIXED,
    doc="Return the gradient of softmax from its result y.",
    errors=[raises(ShapeError, "must be equal", (4, 5), (5, 4), axis=1)])
softmax: Op = composite("softmax", "x -> y", _softmax, {"x": softmax_grad}, spec=lambda x, axis: x,
    batch="axis",
    reference=_softmax_reference, samples=AXIS, num=MIXED,
    doc="Return exp(x) / sum(exp(x)) along an axis, without overflow.",
    errors=[raises(DTypeError, "not defined for int64", ints(4, 5), axis=1)])
log_softmax_grad: Op = composite("log_softmax_grad", "g y -> gx",
    lambda g, y, axis: g - exp(y) * sum_(g, (axis,), True), spec=_grad_spec, samples=PAIR, num=MIXED,
    batch="axis",
    doc="Return the gradient of log_softmax from its result y.",
    errors=[raises(ShapeError, "must be equal", (4, 5), (5, 4), axis=1)])
log_softmax: Op = composite("log_softmax", "x -> y", _log_softmax, {"x": log_softmax_grad}, spec=lambda x, axis: x,
    batch="axis",
    samples=AXIS, num=MIXED,
    reference=_log_softmax_reference, doc="Return the logarithm of softmax along an axis.",
    errors=[raises(DTypeError, "not defined for int64", ints(4, 5), axis=1)])
logsumexp: Op = composite("logsumexp", "x -> y", _lse,
    {"x": lambda g, x, y, axes: exp(x - kept(y, x.shape, axes)) * kept(g, x.shape, axes)},
    batch="axis",
    spec=lambda x, axes, keepdims=False: Spec(reduced(x.shape, axes, keepdims), x.dtype), reference=_lse_reference,
    num=MIXED,
    samples=[s((4, 5), axes=(1,)), s((4, 5), axes=(0,), keepdims=True), s((2, 3, 4), axes=(1,)), s((7,), axes=(0,)),
        s((3, 67), axes=(1,))],
    doc="Return log(sum(exp(x))) over axes, without overflow.",
    errors=[raises(DTypeError, "not defined for int64", ints(4, 5), axes=(1,))])
