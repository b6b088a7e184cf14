"""Batching rules of single kernels, and the small steps that rules are made of.

A rule takes operands of the level outside, says which of them are batched, and returns results with the batch in front.
"""

from typing import Any

from treadle.api.convert import contiguous, detach
from treadle.op import CATALOGUE, FN
from treadle.ops.indexing import as_int32
from treadle.shapes import numel

Flags = list[bool]


# ---- steps ---------------------------------------------------------------------------------------------------------
def front(x: Any, has_batch: bool, size: int) -> Any:
    """x with the batch in front; repeated if it has none."""
    return x if has_batch or x is None else FN["expand"](x, (size, *x.shape))


def fronts(xs: list[Any], flags: Flags) -> list[Any]:
    """All operands with the batch in front."""
    size = size_of(xs, flags)
    return [front(x, b, size) for x, b in zip(xs, flags, strict=True)]


def size_of(xs: list[Any], flags: Flags) -> int:
    """The size of the batch."""
    return next(x.shape[0] for x, b in zip(xs, flags, strict=True) if b)  # type: ignore[no-any-return]


def moved(x: Any, source: int, target: int) -> Any:
    """x with one axis at another place, the others in order."""
    if source == target:
        return x
    order = [d for d in range(x.ndim) if d != source]
    order.insert(target, source)
    return FN["permute"](x, tuple(order))


def example(x: Any, k: int) -> Any:
    """One example of a batch."""
    return FN["subscript"](x, (k, *((0, n, 1) for n in x.shape[1:])))


def _items(x: Any) -> tuple[Any, ...]:
    return ((0, x.shape[0], 1),)


# ---- copies --------------------------------------------------------------------------------------------------------
def _concat(xs: Any, flags: Flags, attrs: Any, want: Any) -> Any:
    return FN["concat"](*fronts(xs, flags), axis=attrs["axis"] + 1)


def _pad(xs: Any, flags: Flags, attrs: Any, want: Any) -> Any:
    return FN["pad"](*xs, ((0, 0), *attrs["widths"]))


def _copy(xs: Any, flags: Flags, attrs: Any, want: Any) -> Any:
    return FN["copy"](xs[0])


def _write(xs: Any, flags: Flags, attrs: Any, want: Any) -> Any:
    x, y = fronts(xs, flags)
    return FN["write"](x, y, (*_items(x), *attrs["items"]))


def _as_strided_scatter(xs: Any, flags: Flags, attrs: Any, want: Any) -> Any:
    x, y = fronts(xs, flags)
    return FN["as_strided_scatter"](x, y, (numel(x.shape[1:]), *attrs["stride"]), attrs["offset"])


# ---- matrices ------------------------------------------------------------------------------------------------------
def _matmul(xs: Any, flags: Flags, attrs: Any, want: Any) -> Any:
    """Both have a batch: their other leading axes are aligned behind it."""
    rank = max(x.ndim for x in xs)
    a, b = (FN["reshape"](x, (x.shape[0], *(1,) * (rank - x.ndim), *x.shape[1:])) for x in xs)
    return FN["matmul"](a, b)


# ---- indices -------------------------------------------------------------------------------------------------------
def with_examples(i: Any) -> Any:
    """Coordinates (B, ..., k) with the example's number in front: (B, ..., k + 1)."""
    shape = (*i.shape[:-1], 1)
    place = FN["reshape"](i.new_arange(i.shape[0], dtype=i.dtype), (i.shape[0], *(1,) * (i.ndim - 1)))
    return FN["concat"](FN["expand"](place, shape), i, axis=i.ndim - 1)


def _gather_nd(xs: Any, flags: Flags, attrs: Any, want: Any) -> Any:
    x, i = xs
    if flags == [False, True]:
        return FN["gather_nd"](x, i)
    if flags == [True, True]:
        return FN["gather_nd"](x, with_examples(i))
    depth = i.shape[-1]  # the batch goes behind the axes that are indexed
    return moved(FN["gather_nd"](moved(x, 0, depth), i), i.ndim - 1, 0)


def _scatter_nd(xs: Any, flags: Flags, attrs: Any, want: Any) -> Any:
    (x, i, u), mode = xs, attrs["mode"]
    size = size_of(xs, flags)
    x, u = front(x, flags[0], size), front(u, flags[2], size)
    if flags[1]:
        return FN["scatter_nd"](x, with_examples(i), u, mode)
    depth = i.shape[-1]
    return moved(
        FN["scatter_nd"](contiguous(moved(x, 0, depth)), i, contiguous(moved(u, 0, i.ndim - 1)), mode), depth, 0
    )


def _embedding(xs: Any, flags: Flags, attrs: Any, want: Any) -> Any:
    """Tables and indices differ: a gather, whose negative indices are put out of range as embedding's are."""
    w, i = fronts(xs, flags)
    low = as_int32(i)
    place = FN["where"](low < 0, w.shape[1], low)
    y = FN["gather_nd"](w, with_examples(FN["reshape"](place, (*place.shape, 1))))
    if attrs["padding_idx"] >= 0:  # that row gets no gradient
        y = FN["where"](FN["reshape"](low == attrs["padding_idx"], (*low.shape, 1)), detach(y), y)
    return y


# ---- with statistics over the examples' own axes -------------------------------------------------------------------
def _layer_norm_grad(xs: Any, flags: Flags, attrs: Any, want: Any) -> Any:
    """The input's gradient natively; those of weight and bias are sums over each example's rows."""
    if xs[2] is not None and flags[2]:
        return NotImplemented
    size = size_of(xs, flags)
    g, x, w, mean, rstd = (xs[k] if k == 2 else front(xs[k], flags[k], size) for k in range(5))
    ndim, rows = attrs["ndim"], tuple(range(1, x.ndim - attrs["ndim"]))
    gx = FN["layer_norm_grad"](g, x, w, mean, rstd, ndim, want=(True, False, False))[0] if want[0] else None
    weight = FN["sum"](g * ((x - mean) * rstd).to(x.dtype), rows) if want[1] else None
    return gx, weight, FN["sum"](g, rows) if want[2] else None


def _rows_of_loss(xs: Any, flags: Flags, attrs: Any) -> Any:
    """(x, t) with all examples' rows one below the other, B, N; None where rows of the examples cannot go together."""
    x, t, w = xs
    if w is not None and (flags[2] or attrs["reduction"] == "mean"):
        return None
    size = size_of(xs, flags)
    x, t = front(x, flags[0], size), front(t, flags[1], size)
    n = t.shape[1]
    return FN["reshape"](x, (size * n, x.shape[2])), FN["reshape"](t, (size * n,)), w, size, n


def _counted(t: Any, attrs: Any, size: int, n: int, like: Any) -> Any:
    """How many rows of every example count: (B,)."""
    return FN["sum"](FN["reshape"]((t != attrs["ignore_index"]).to(like.dtype), (size, n)), (1,))


def _cross_entropy(xs: Any, flags: Flags, attrs: Any, want: Any) -> Any:
    found = _rows_of_loss(xs, flags, attrs)
    if found is None:
        return NotImplemented
    x, t, w, size, n = found
    rows = FN["cross_entropy"](x, t, w, **{**attrs, "reduction": "none"})
    rows = FN["reshape"](rows, (size, n))
    if attrs["reduction"] == "none":
        return rows
    total = FN["sum"](rows, (1,))
    return total if attrs["reduction"] == "sum" else total / _counted(t, attrs, size, n, total)


def _cross_entropy_grad(xs: Any, flags: Flags, attrs: Any, want: Any) -> Any:
    g, lse = xs[0], xs[4]
    found = _rows_of_loss(xs[1:4], flags[1:4], attrs) if any(flags[1:4]) else None
    if found is None:
        return NotImplemented
    x, t, w, size, n = found
    g, lse = front(g, flags[0], size), front(lse, flags[4], size)
    if attrs["reduction"] == "mean":
        g = g / _counted(t, attrs, size, n, g)
    if attrs["reduction"] != "none":
        g = FN["expand"](FN["reshape"](g, (size, 1)), (size, n))
    flat = (size * n,)
    rows = FN["cross_entropy_grad"](
        FN["reshape"](g, flat), x, t, w, FN["reshape"](lse, flat), **{**attrs, "reduction": "none"}
    )
    return FN["reshape"](rows, (size, n, x.shape[1]))


# ---- random draws --------------------------------------------------------------------------------------------------
def drawn(op: Any, given: Any, flags: Flags, attrs: Any, size: int) -> Any:
    """A draw that differs between the examples: one draw for the whole batch, with the batch in front."""
    if op.name == "dropout":
        x, state = given
        return FN["dropout"](contiguous(front(x, flags[0], size)), state, **attrs)
    return FN[op.name](given[0], **{**attrs, "shape": (size, *attrs["shape"])})


BY_NAME: dict[str, Any] = {
    "concat": _concat, "pad": _pad, "copy": _copy, "write": _write, "as_strided_scatter": _as_strided_scatter,
    "matmul": _matmul, "gather_nd": _gather_nd, "scatter_nd": _scatter_nd, "embedding": _embedding,
    "layer_norm_grad": _layer_norm_grad, "cross_entropy": _cross_entropy, "cross_entropy_grad": _cross_entropy_grad,
}  # fmt: skip
assert set(BY_NAME) <= set(CATALOGUE), "these are ops"
