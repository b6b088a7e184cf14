"""Matrix products. Every one is closed under differentiation: the gradients are matrix products again."""

from typing import Any

import numpy as np

from treadle.dtypes import ALL
from treadle.errors import ShapeError
from treadle.op import Op, composite
from treadle.ops.manipulation import expand, reshape, transpose_last
from treadle.ops.reduction import sum_, sum_to
from treadle.ops.samples import raises, s
from treadle.shapes import broadcast, numel
from treadle.spec import Spec


def _dot_spec(a: Spec, b: Spec) -> Spec:
    if a.ndim != 3 or b.ndim != 3 or (a.shape[0], a.shape[2]) != b.shape[:2]:
        raise ShapeError(f"dot_general: (B, M, K) x (B, K, N) expected: {a.shape} x {b.shape}")
    return Spec((*a.shape[:2], b.shape[2]), a.dtype)


def _matmul_spec(a: Spec, b: Spec) -> Spec:
    if a.ndim < 2 or b.ndim < 2:
        raise ShapeError(f"matmul: operands need two dimensions or more: {a.shape} @ {b.shape}")
    if a.shape[-1] != b.shape[-2]:
        raise ShapeError(
            f"matmul: inner dimensions differ: {a.shape} @ {b.shape} (axis -1 has {a.shape[-1]}, axis -2 "
            f"has {b.shape[-2]})"
        )
    return Spec((*broadcast("matmul", a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1]), a.dtype)


def _matmul(a: Any, b: Any) -> Any:
    (m, k), n = a.shape[-2:], b.shape[-1]
    batch = broadcast("matmul", a.shape[:-2], b.shape[:-2])
    left = reshape(expand(a, (*batch, m, k)), (numel(batch), m, k))
    right = reshape(expand(b, (*batch, k, n)), (numel(batch), k, n))
    return reshape(dot_general(left, right), (*batch, m, n))


def linear_spec(x: Spec, w: Spec, b: Spec | None = None) -> Spec:
    if w.ndim != 2 or x.ndim < 1 or x.shape[-1] != w.shape[1]:
        raise ShapeError(
            f"linear: last size of the input and in_features of the weight differ: input {x.shape}, weight "
            f"(out_features, in_features) = {w.shape}"
        )
    if b is not None and b.shape != w.shape[:1]:
        raise ShapeError(f"linear: bias {b.shape} must be (out_features,) = {w.shape[:1]}")
    return Spec((*x.shape[:-1], w.shape[0]), x.dtype)


def _linear(x: Any, w: Any, b: Any = None) -> Any:
    y = reshape(matmul(rows(x), transpose_last(w)), (*x.shape[:-1], w.shape[0]))  # (r, in) @ (in, out)
    return y if b is None else y + b


def rows(x: Any) -> Any:
    """(..., n) -> (rows, n)."""
    shape = x.shape
    return x if len(shape) == 2 else reshape(x, (numel(shape[:-1]), shape[-1]))


def _linear_x_grad(g: Any, w: Any, shape_x: Any) -> Any:
    return reshape(matmul(rows(g), w), shape_x)  # (r, out) @ (out, in)


def _linear_w_grad(g: Any, x: Any) -> Any:
    return matmul(transpose_last(rows(g)), rows(x))  # (out, r) @ (r, in)


dot_general: Op = Op("dot_general", "a b -> y", tier="kernel", category="contraction", spec=_dot_spec,
    batch="a:1 -> 1 | b:2 -> 2 | a:0 b:0 -> 0", cost=lambda y, a, b: 2 * y.size * a.shape[-1],
    reference=np.matmul, dtypes=frozenset(ALL),
    vjp={"a": lambda g, b: dot_general(g, transpose_last(b)), "b": lambda g, a: dot_general(transpose_last(a), g)},
    samples=[s((2, 3, 4), (2, 4, 5)), s((1, 1, 1), (1, 1, 1)), s((3, 0, 4), (3, 4, 5)), s((2, 3, 0), (2, 0, 5)),
        s((1, 37, 65), (1, 65, 33)),
        s((5, 16, 9), (5, 9, 31))],
    doc="Multiply batches of matrices: (B, M, K) x (B, K, N) -> (B, M, N); half types accumulate in float32.",
    errors=[raises(ShapeError, "expected", (2, 3, 4), (2, 5, 4)), raises(ShapeError, "expected", (3, 4), (4, 5))])
matmul: Op = composite("matmul", "a b -> y", _matmul, spec=_matmul_spec, reference=np.matmul, dtypes=frozenset(ALL),
    batch="a:-2 -> -2 | b:-1 -> -1", cost=lambda y, a, b: 2 * y.size * a.shape[-1],
    promote="dtype",
    vjp={"a": lambda g, b, shape_a: sum_to(matmul(g, transpose_last(b)), shape_a),
        "b": lambda g, a, shape_b: sum_to(matmul(transpose_last(a), g), shape_b)},
    samples=[s((3, 4), (4, 5)), s((1, 1), (1, 1)), s((2, 3, 4), (2, 4, 5)), s((2, 1, 3, 4), (5, 4, 2)),
        s((0, 4), (4, 5)), s((3, 0), (0, 5)),
        s((67, 33), (33, 65)), s((4, 128), (128, 10))],
    doc="Multiply matrices (..., M, K) @ (..., K, N); leading axes broadcast.",
    errors=[raises(ShapeError, "inner dimensions differ", (4, 3), (5, 2)),
        raises(ShapeError, "do not broadcast", (2, 4, 3), (5, 3, 2)),
        raises(ShapeError, "two dimensions", (3,), (3, 2))])
linear: Op = composite("linear", "x w b? -> y", _linear, spec=linear_spec, promote="dtype",
    batch="x:* -> *", cost=lambda y, x, w, b=None: 2 * y.size * x.shape[-1],
    vjp={"x": _linear_x_grad, "w": _linear_w_grad, "b": lambda g: sum_(rows(g), (0,))},
    reference=lambda x, w, b=None: np.matmul(x, w.T) + (0 if b is None else b),
    samples=[s((3, 4), (5, 4), (5,)), s((3, 4), (5, 4), None), s((4,), (5, 4), (5,)), s((2, 3, 4), (5, 4), (5,)),
        s((0, 4), (5, 4), (5,)),
        s((64, 33), (65, 33), (65,))],
    doc="Return x @ w.T + b for rows x (..., in), w (out, in), b (out,).",
    errors=[raises(ShapeError, "in_features", (3, 4), (5, 3), None), raises(ShapeError, "bias", (3, 4), (5, 4), (4,))])
