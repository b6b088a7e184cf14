"""Reductions over axes, and what is built from them: mean, variance, argmax, cumulative sums.

Axes are sorted and non-negative; `sum_to` is the transpose of broadcasting.
"""

import math
from typing import Any

import numpy as np

from treadle.dtypes import ALL, FLOATS, INTS, int32, int64
from treadle.errors import ArgumentError, DTypeError
from treadle.op import EXACT, MIXED, Op, composite
from treadle.ops.manipulation import concat, expand, narrow, reshape, subscript
from treadle.ops.samples import bools, ints, raises, reduction_samples, s
from treadle.shapes import Shape, reduced
from treadle.spec import Spec

NUMERIC = INTS | FLOATS


def _spec(x: Spec, axes: Shape, keepdims: bool = False) -> Spec:
    return Spec(reduced(x.shape, axes, keepdims), x.dtype)


def _not_empty(x: Spec, axes: Shape, keepdims: bool = False) -> None:
    if any(x.shape[a] == 0 for a in axes):
        raise ArgumentError(
            f"max/min: cannot reduce an axis of size 0: shape {x.shape}, axes {axes}; give it elements first"
        )


def reduction(name: str, reference: Any, vjp: Any, **fields: Any) -> Op:
    return Op(name, "x -> y", tier="kernel", category="reduction",
        reference=lambda x, axes, keepdims=False: reference(x, axis=axes, keepdims=keepdims),
              spec=_spec, vjp=vjp, samples=reduction_samples(), **fields)  # fmt: skip


def kept(g: Any, shape_x: Shape, axes: Shape) -> Any:
    """Give a reduced tensor its axes back with size 1."""
    return reshape(g, tuple(1 if d in axes else n for d, n in enumerate(shape_x)))


def _sum_grad(g: Any, shape_x: Shape, axes: Shape) -> Any:
    return expand(kept(g, shape_x, axes), shape_x)


def _extremum_grad(g: Any, x: Any, y: Any, axes: Shape) -> Any:
    hit = x == kept(y, x.shape, axes)  # ties share the gradient evenly, as PyTorch's amax
    weight = hit.to(g.dtype)
    return weight * (kept(g, x.shape, axes) / sum_(weight, axes, True))


def _same_dtype(f: Any) -> Any:
    return lambda x, axis, keepdims: f(x, axis=axis, keepdims=keepdims, dtype=x.dtype)


def _extremum(f: Any, zero_wins: Any) -> Any:
    def run(x: Any, axis: Any, keepdims: bool) -> Any:
        y = f(x, axis=axis, keepdims=keepdims)
        if x.dtype.kind != "f":
            return y
        signs = zero_wins(np.where(x == 0, np.signbit(x), zero_wins is np.all), axis=axis, keepdims=keepdims)
        return np.where(y == 0, np.where(signs, -0.0, 0.0), y)  # max prefers +0, min prefers -0

    return run


sum_: Op = reduction("sum", _same_dtype(np.sum), {"x": _sum_grad}, dtypes=NUMERIC,
    doc="Add elements over axes; half types add up in float32.",
    errors=[raises(DTypeError, "not defined for bool", bools(3), axes=(0,))])
prod: Op = reduction("prod", _same_dtype(np.prod), {"x": lambda g, x, axes: kept(g, x.shape, axes) * _others(x, axes)},
    dtypes=NUMERIC,
    doc="Multiply elements over axes.",
    errors=[raises(DTypeError, "not defined for bool", bools(3), axes=(0,))])
max_: Op = reduction("max", _extremum(np.max, np.all), {"x": _extremum_grad}, num=EXACT, check=_not_empty,
    doc="Return the largest over axes; NaN wins, ties share the gradient.",
    errors=[raises(ArgumentError, "size 0", (3, 0), axes=(1,))])
min_: Op = reduction("min", _extremum(np.min, np.any), {"x": _extremum_grad}, num=EXACT, check=_not_empty,
    doc="Return the smallest over axes; NaN wins, ties share the gradient.",
    errors=[raises(ArgumentError, "size 0", (3, 0), axes=(0, 1))])


def sum_to(g: Any, shape: Shape) -> Any:
    """Sum g over the axes along which a tensor of `shape` was broadcast: the transpose of expand."""
    have = g.shape
    if have == shape:
        return g
    lead = len(have) - len(shape)
    over = tuple(range(lead)) + tuple(d + lead for d, n in enumerate(shape) if n == 1 != have[d + lead])
    return reshape(sum_(g, over), shape) if over else reshape(g, shape)


def _others(x: Any, axes: Shape) -> Any:
    """At each element the product of all others along `axes`, as a tree: exact for zeros and in every order."""
    result = None
    for a in axes:  # others along this axis, times the others of the partial products along the axes to come
        part = _exclusive(x, a)
        result = part if result is None else result * part
        x = prod(x, (a,), True)
    return x * 0 + 1 if result is None else result


def _exclusive(x: Any, a: int) -> Any:
    n = x.shape[a]
    if n <= 1:
        return x * 0 + 1
    half = n // 2
    low, high = narrow(x, a, 0, half), narrow(x, a, half, half)
    inner = _exclusive(low * high, a)
    parts = [inner * high, inner * low]
    if n % 2:
        last = narrow(x, a, n - 1, 1)
        total = prod(narrow(x, a, 0, n - 1), (a,), True)
        parts = [parts[0] * last, parts[1] * last, total]
    return concat(*parts, axis=a)


# ---- composites ----------------------------------------------------------------------------------------------------
def _mean(x: Any, axes: Shape, keepdims: bool = False) -> Any:
    count = math.prod(x.shape[a] for a in axes)
    return sum_(x, axes, keepdims) * (1.0 / count if count else math.nan)


def _mean_reference(x: Any, axes: Shape, keepdims: bool = False) -> Any:
    return np.sum(x, axes, keepdims=keepdims) / np.float64(math.prod(x.shape[a] for a in axes))


def _mean_grad(g: Any, shape_x: Shape, axes: Shape) -> Any:
    count = math.prod(shape_x[a] for a in axes)
    return expand(kept(g, shape_x, axes) * (1.0 / count if count else math.nan), shape_x)


def _per_count(x: Any, axes: Shape, correction: float) -> Any:
    """1 / (count - correction)."""
    count = math.prod(x.shape[a] for a in axes) - correction
    return 1.0 / count if count > 0 else math.nan if count == 0 and 0 in x.shape else math.inf


def _var(x: Any, axes: Shape, correction: float = 1, keepdims: bool = False) -> Any:
    d = x - mean(x, axes, True)
    return sum_(d * d, axes, keepdims) * _per_count(x, axes, correction)


def _var_grad(g: Any, x: Any, axes: Shape, correction: float) -> Any:
    return kept(g, x.shape, axes) * _per_count(x, axes, correction) * ((x - mean(x, axes, True)) * 2.0)


def _var_spec(x: Spec, axes: Shape, correction: float = 1, keepdims: bool = False) -> Spec:
    return _spec(x, axes, keepdims)


mean: Op = composite("mean", "x -> y", _mean, {"x": _mean_grad}, spec=_spec, reference=_mean_reference, num=MIXED,
    batch="axis",
    samples=reduction_samples()[:-2],
    doc="Return the mean over axes; of no elements it is NaN.",
    errors=[raises(DTypeError, "not defined for int64", ints(3), axes=(0,))])
var: Op = composite("var", "x -> y", _var, {"x": _var_grad}, spec=_var_spec, num=MIXED,
    batch="axis",
    samples=[s((4, 5), axes=(1,)), s((4, 5), axes=(0, 1), correction=0), s((37, 65), axes=(0,), keepdims=True)],
    doc="Return the variance over axes, divided by count - correction.",
    errors=[raises(DTypeError, "not defined for int64", ints(3), axes=(0,))])


def _arg_spec(x: Spec, axis: int, keepdims: bool = False) -> Spec:
    return Spec(reduced(x.shape, (axis,), keepdims) if x.shape else (), int64)


def _arg_check(x: Spec, axis: int, keepdims: bool = False) -> None:
    if x.shape and x.shape[axis] == 0:
        raise ArgumentError(f"argmax/argmin: axis {axis} has size 0: shape {x.shape}")


def _arg_reference(f: Any) -> Any:
    return lambda x, axis, keepdims=False: f(x, axis, keepdims=keepdims) if x.ndim else np.zeros((), np.int64)


def _arg(reduce: Op) -> Any:
    def decompose(x: Any, axis: int, keepdims: bool = False) -> Any:
        if not x.shape:
            return x.new_zeros((), dtype=int64)
        n = x.shape[axis]
        best = reduce(x, (axis,), True)
        place = reshape(x.new_arange(n, dtype=int32), tuple(n if d == axis else 1 for d in range(x.ndim)))
        hit = (x == best) | (x != x)
        return min_(expand(place, x.shape).where(hit, n), (axis,),
            keepdims).to(int64)  # backends owe arithmetic on int32 only

    return decompose


ARG_SAMPLES = [s((4, 5), axis=0), s((4, 5), axis=1, keepdims=True), s((7,), axis=0), s((), axis=0), s((37, 65), axis=1),
    s((2, 3, 4), axis=1)]
argmax: Op = composite("argmax", "x -> y", _arg(max_), {}, spec=_arg_spec, check=_arg_check,
    batch="axis",
    reference=_arg_reference(np.argmax), samples=ARG_SAMPLES, num=EXACT,
    dtypes=frozenset(ALL),
    doc="Return the first index (int64) of the largest along an axis; NaN wins.",
    errors=[raises(ArgumentError, "size 0", (0,), axis=0)])
argmin: Op = composite("argmin", "x -> y", _arg(min_), {}, spec=_arg_spec, check=_arg_check,
    batch="axis",
    reference=_arg_reference(np.argmin), samples=ARG_SAMPLES, num=EXACT,
    dtypes=frozenset(ALL),
    doc="Return the first index (int64) of the smallest along an axis; NaN wins.",
    errors=[raises(ArgumentError, "size 0", (2, 0), axis=1)])


def _cumsum(x: Any, axis: int) -> Any:
    """Hillis and Steele's scan: log2(n) shifted additions."""
    n, step = x.shape[axis], 1
    while step < n:
        head = narrow(x, axis, 0, step)
        x = concat(head, narrow(x, axis, step, n - step) + narrow(x, axis, 0, n - step), axis=axis)
        step *= 2
    return x + 0


def _reversed(x: Any, axis: int) -> Any:
    return subscript(x, tuple((n - 1, n, -1) if d == axis else (0, n, 1) for d, n in enumerate(x.shape)))


cumsum: Op = composite("cumsum", "x -> y", _cumsum,
    {"x": lambda g, axis: _reversed(cumsum(_reversed(g, axis), axis), axis)}, spec=lambda x, axis: x, dtypes=NUMERIC,
    batch="axis",
    num=MIXED,
    reference=lambda x, axis: np.cumsum(x, axis, dtype=x.dtype),
    samples=[s((4, 5), axis=0), s((4, 5), axis=1), s((37,), axis=0), s((0, 3), axis=0)],
    doc="Return running sums along an axis.",
    errors=[raises(DTypeError, "not defined for bool", bools(3), axis=0)])
