"""Gather and scatter, sorting, and the ops built from them.

Negative indices count from the end; an index outside [-n, n) is an IndexError raised before anything is written.
"""

from typing import Any

import numpy as np

from treadle.dtypes import ALL, INTS, float32, int32, int64
from treadle.errors import DTypeError, ShapeError
from treadle.op import EXACT, STEPWISE, Op, composite, host
from treadle.ops.elementwise import abs_, cast, where
from treadle.ops.manipulation import expand, reshape
from treadle.ops.samples import Arg, ints, raises, s, t
from treadle.shapes import numel
from treadle.spec import Spec

EVERY = frozenset(ALL)


def _checked(i: Any, sizes: Any) -> Any:
    """Index array (..., k) to a tuple of k arrays, wrapped; IndexError naming the first index out of range."""
    parts = []
    for axis, n in enumerate(sizes):
        part = i[..., axis]
        bad = (part < -n) | (part >= n)
        if bad.any():
            raise IndexError(f"index {part[bad].reshape(-1)[0]} is out of range for size {n}")
        parts.append(np.where(part < 0, part + n, part))
    return tuple(parts)


def _gather_spec(x: Spec, i: Spec) -> Spec:
    if i.dtype not in (int32, int64):
        raise DTypeError(f"gather_nd: indices must be int32 or int64: {i.dtype.name}")
    if not i.shape or i.shape[-1] > x.ndim:
        raise ShapeError(f"gather_nd: indices (..., k) need k <= {x.ndim}: {i.shape} for {x.shape}")
    return Spec((*i.shape[:-1], *x.shape[i.shape[-1] :]), x.dtype)


def _scatter_spec(x: Spec, i: Spec, u: Spec, mode: str = "set") -> Spec:
    want = _gather_spec(x, i).shape
    if u.dtype is not x.dtype:
        raise DTypeError(f"scatter_nd: updates must be of the target's type: {u.dtype.name} into {x.dtype.name}")
    if u.shape != want:
        raise ShapeError(f"scatter_nd: updates {u.shape} must have shape {want} for indices {i.shape} into {x.shape}")
    return x


def _scatter(x: Any, i: Any, u: Any, mode: str = "set") -> Any:
    out = x.copy()
    at = _checked(i, x.shape[: i.shape[-1]])
    if mode == "set":
        out[at] = u
    else:
        {"add": np.add, "mul": np.multiply, "min": np.minimum, "max": np.maximum}[mode].at(out, at, u)
    return out


def _scatter_grads(g: Any, i: Any, shape_u: Any, mode: str) -> Any:
    if mode == "add":
        return g, gather_nd(g, i)
    if mode == "set":
        return scatter_nd(g, i, g.new_zeros(shape_u), "set"), gather_nd(g, i)
    raise NotImplementedError(f"scatter_nd: mode {mode!r} has no gradient; use 'set' or 'add'")


def _sort(x: Any, descending: bool = False) -> Any:
    if not descending:
        order = np.argsort(x, -1, kind="stable")
    elif x.dtype.kind == "f":
        order = np.argsort(np.where(np.isnan(x), np.inf, x) * -1, -1, kind="stable")
        keys = np.stack([~np.isnan(x), np.zeros_like(x)])[0]
        order = np.take_along_axis(order, np.argsort(np.take_along_axis(keys, order, -1), -1, kind="stable"), -1)
    else:
        flipped = np.flip(x, -1)
        order = np.flip(x.shape[-1] - 1 - np.argsort(flipped, -1, kind="stable"), -1)
    return np.take_along_axis(x, order, -1), order.astype(np.int64)


OUTSIDE = [raises(IndexError, "out of range|outside", (5, 3), ints(2, 1, low=low, high=low + 1)) for low in (5, -6)]
gather_nd: Op = Op("gather_nd", "x i -> y", tier="kernel", category="index", spec=_gather_spec,
    reference=lambda x, i: x[_checked(i, x.shape[: i.shape[-1]])], num=EXACT,
    vjp={"x": lambda g, i, shape_x: scatter_nd(g.new_zeros(shape_x), i, g, "add")},
    samples=[s((5, 3), ints(4, 1, high=5)), s((5, 3), ints(2, 4, 2, high=3)), s((7,), ints(0, 1, high=7)),
        s((3, 4, 5), ints(6, 1, low=-3, high=3)),
        s((4, 0), ints(2, 1, high=4)), s((5, 3), Arg((4, 1), "int32", -5, 5))],
    doc="Return x at coordinates i[..., :] of its first axes.",
    errors=[*OUTSIDE, raises(ShapeError, "need k <=", (5,), ints(2, 3))])
scatter_nd: Op = Op("scatter_nd", "x i u -> y", tier="kernel", category="index", spec=_scatter_spec, reference=_scatter,
    num=STEPWISE, vjp={"x u": _scatter_grads},
    samples=[s((5, 3), ints(4, 1, high=5), (4, 3), mode="add"), s((7,), ints(3, 2, 1, high=7), (3, 2), mode="add"),
        s((5, 3), ints(1, 1, high=5), (1, 3), mode="set"),
        s((4, 3), ints(2, 2, high=3), (2,), mode="max"), s((4, 3), ints(2, 2, high=3), (2,), mode="min"),
        s((7,), ints(0, 1, high=7), (0,), mode="set"),
        s((4, 3), ints(2, 2, high=3), (2,), mode="mul"), s((5, 3), Arg((4, 1), "int32", -5, 5), (4, 3), mode="add")],
    doc="Return x with updates u set, added, multiplied, or minimised or maximised in at coordinates i[..., :].",
    errors=[raises(IndexError, "out of range|outside", (5, 3), ints(2, 1, low=5, high=6), (2, 3)),
        raises(ShapeError, "updates", (5, 3), ints(2, 1, high=5), (2, 2))])
sort: Op = Op("sort", "x -> values indices", tier="kernel", category="sort", reference=_sort,
    batch="x:* -> * *",
    spec=lambda x, descending=False: (x, Spec(x.shape, int64)), num=EXACT,
    vjp={"x": lambda g_values, indices, shape_x: _unsort(g_values, indices, shape_x)},
    samples=[s((7,)), s((4, 5)), s((4, 5), descending=True), s((1,)), s((0,)), s((3, 67))],
    doc="Sort along the last axis, stably; NaN last (first when descending). Also the indices it came from.",
    errors=[raises(DTypeError, "tensor", 3.0)])


def _along_index(x: Any, i: Any, axis: int) -> Any:
    """Full coordinates (..., ndim) of the elements that i selects along one axis."""
    coordinates = []
    for d in range(i.ndim):
        if d == axis:
            coordinates.append(i)
        else:
            place = reshape(i.new_arange(i.shape[d], dtype=i.dtype),
                tuple(i.shape[d] if k == d else 1 for k in range(i.ndim)))
            coordinates.append(expand(place, i.shape))
    return i.stack(coordinates, -1)


def _along_spec(x: Spec, i: Spec, axis: int) -> Spec:
    if i.dtype not in (int32, int64):
        raise DTypeError(f"gather: an index must be int32 or int64: {i.dtype.name}")
    if x.ndim != i.ndim or any(n > m for d, (n, m) in enumerate(zip(i.shape, x.shape, strict=True)) if d != axis):
        raise ShapeError(f"gather: index {i.shape} must have the rank of {x.shape} and fit it except at axis {axis}")
    return Spec(i.shape, x.dtype)


def _put_spec(x: Spec, i: Spec, u: Spec, axis: int, mode: str = "set") -> Spec:
    _along_spec(x, i, axis)
    if u.shape != i.shape or u.dtype is not x.dtype:
        raise ShapeError(f"scatter: the source must be like the index, {x.dtype.name}{list(i.shape)}: {u}")
    return x


take_along: Op = composite("take_along", "x i -> y", lambda x, i, axis: gather_nd(x, _along_index(x, i, axis)),
    batch="axis",
    spec=_along_spec, dtypes=EVERY, num=EXACT,
    vjp={"x": lambda g, i, shape_x, axis: put_along(g.new_zeros(shape_x), i, g, axis, "add")},
    samples=[s((4, 5), ints(4, 2, high=5), axis=1), s((4, 5), ints(3, 5, high=4), axis=0),
        s((7,), ints(3, high=7), axis=0),
        s((4, 5), Arg((4, 2), "int32", -5, 5), axis=1)],
    doc="Return the elements that i names along one axis.",
    errors=[raises(IndexError, "out of range|outside", (4, 5), ints(4, 2, low=5, high=6), axis=1),
        raises(ShapeError, "rank", (4, 5), ints(4), axis=1)])
put_along: Op = composite("put_along", "x i u -> y",
    lambda x, i, u, axis, mode="set": scatter_nd(x, _along_index(x, i, axis), u, mode),
    batch="axis",
    spec=_put_spec, dtypes=EVERY, num=STEPWISE, samples=[s((4, 5), ints(4, 2, high=5), (4, 2), axis=1, mode="add"),
        s((7,), ints(3, high=7), (3,), axis=0, mode="add")],
    doc="Return x with u written (or combined) at the places that i names along one axis.",
    errors=[raises(IndexError, "out of range|outside", (4, 5), ints(4, 2, low=5, high=6), (4, 2), axis=1),
        raises(ShapeError, "like the index", (4, 5), ints(4, 2, high=5), (4, 1), axis=1)])


def _unsort(g: Any, indices: Any, shape_x: Any) -> Any:
    return put_along(g.new_zeros(shape_x), indices, g, len(shape_x) - 1, "set")


# ---- embedding -----------------------------------------------------------------------------------------------------
def _embedding_spec(w: Spec, i: Spec, padding_idx: int = -1) -> Spec:
    if w.ndim != 2 or i.dtype not in INTS:
        raise ShapeError(f"embedding: weight (num_embeddings, dim) and integer indices expected: {w}, {i}")
    return Spec((*i.shape, w.shape[1]), w.dtype)


def _embedding_reference(w: Any, i: Any, padding_idx: int = -1) -> Any:
    if i.size and (i.min() < 0 or i.max() >= w.shape[0]):
        raise IndexError(f"embedding: index out of range [0, {w.shape[0]})")
    return w[i]


def as_int32(i: Any) -> Any:
    """Indices in the type whose arithmetic every backend owes; what does not fit becomes too large for any axis."""
    far = abs_(cast(i, float32)) >= 2.0**31
    return i if i.dtype is int32 else where(far, 2**31 - 1, cast(i, int32))


def _places(i: Any, n: int) -> Any:
    """Indices (..., 1) of rows for gather_nd: negative ones, which it would wrap, are put out of range."""
    i = as_int32(i)
    return reshape(where(i < 0, n, i), (*i.shape, 1))


def _embedding_grad_spec(g: Spec, i: Spec, num_embeddings: int, padding_idx: int = -1) -> Spec:
    if g.shape[:-1] != i.shape or not g.ndim or i.dtype not in INTS:
        raise ShapeError(f"embedding_grad: rows {g} must belong to integer indices {i}")
    return Spec((num_embeddings, g.shape[-1]), g.dtype)


def _embedding_grad(g: Any, i: Any, num_embeddings: int, padding_idx: int = -1) -> Any:
    count = numel(i.shape)
    flat = reshape(_places(i, num_embeddings), (count, 1))
    rows = reshape(g, (count, g.shape[-1]))
    if padding_idx >= 0:
        rows = rows * (flat != padding_idx).to(g.dtype)
    return scatter_nd(g.new_zeros((num_embeddings, g.shape[-1])), flat, rows, "add")


embedding_grad: Op = composite("embedding_grad", "g i -> gw", _embedding_grad, num=STEPWISE, spec=_embedding_grad_spec,
    batch="g:-1 -> -1",
    vjp={"g": lambda g_gw, i, padding_idx: _pad_rows(embedding(g_gw, i, padding_idx), i, padding_idx)},
    samples=[s((4, 3), ints(4, high=5), num_embeddings=5),
        s((2, 3, 4), ints(2, 3, high=9), num_embeddings=9, padding_idx=1),
        s((0, 3), ints(0, high=5), num_embeddings=5)],
    doc="Add the rows g up by their index: the gradient of an embedding's weight.",
    errors=[raises(ShapeError, "rows", (3, 4), ints(2, high=5), num_embeddings=5),
        raises(IndexError, "out of range|outside", (2, 4), ints(2, low=5, high=6), num_embeddings=5)])
embedding: Op = composite("embedding", "w i -> y", lambda w, i, padding_idx=-1: gather_nd(w, _places(i, w.shape[0])),
    batch="i:* -> * | w:1 -> -1",
    spec=_embedding_spec, reference=_embedding_reference,
    num=EXACT,
    vjp={"w": lambda g, i, shape_w, padding_idx: embedding_grad(g, i, shape_w[0], padding_idx)},
    samples=[s((5, 3), ints(4, high=5)), s((9, 4), ints(2, 3, high=9), padding_idx=1), s((5, 3), ints(0, high=5)),
        s((5, 3), ints(high=5)),
        s((5, 3), Arg((4,), "int32", 0, 5)), s((5, 3), Arg((4,), "uint32", 0, 5))],
    doc="Return the rows of w that i names; an index outside [0, rows) is an error.",
    errors=[raises(IndexError, "out of range|outside", (5, 3), ints(2, low=5, high=6)),
        raises(IndexError, "out of range|outside", (5, 3), ints(2, low=-1, high=0)),
        raises(ShapeError, "expected", (5,), ints(2, high=5))])


def _pad_rows(y: Any, i: Any, padding_idx: int) -> Any:
    return y if padding_idx < 0 else y * reshape((as_int32(i) != padding_idx).to(y.dtype), (*i.shape, 1))


# ---- host ops: the shape of the result depends on the data ---------------------------------------------------------
nonzero: Op = host("nonzero", "x -> y", lambda x: np.argwhere(x).astype(np.int64),
    samples=[s(t(4, 5, kind="bool")), s((0, 2)), s((7,))],
    doc="Return the coordinates (count, ndim) of all nonzero elements in row-major order.",
    errors=[raises(DTypeError, "tensor", 3.0)])
