"""View ops (layout algebra, no kernel) and copy ops (pieces placed into a new tensor by `copy_strided`).

A view's rule takes shape and strides and returns (shape, strides, offset), or None where only a copy can do it. Offsets
and strides count elements. Gradients of views follow from the layouts themselves (autograd.views).
"""

from typing import Any

import numpy as np

from treadle.errors import ArgumentError, DTypeError, ShapeError
from treadle.op import EXACT, Op, view
from treadle.ops.samples import raises, s
from treadle.shapes import (
    Shape,
    check_count,
    dense_strides,
    expand_strides,
    extent,
    is_dense,
    numel,
    overlaps,
    reshape_strides,
)  # fmt: skip
from treadle.spec import Spec

Layout = tuple[Shape, Shape, int]


def _reshape(shape: Shape, strides: Shape, to: Shape) -> Layout | None:
    new = reshape_strides(shape, strides, to)
    return None if new is None else (to, new, 0)


def _permute(shape: Shape, strides: Shape, axes: Shape) -> Layout:
    return tuple(shape[a] for a in axes), tuple(strides[a] for a in axes), 0


def _expand(shape: Shape, strides: Shape, to: Shape) -> Layout:
    lead = len(to) - len(shape)
    if lead < 0 or any(n not in (1, t) for n, t in zip(shape, to[lead:], strict=True)) or any(t < 0 for t in to):
        raise ShapeError(f"expand: {shape} does not broadcast to {to}")
    check_count("expand", to)
    return to, expand_strides(shape, strides, to), 0


def _subscript(shape: Shape, strides: Shape, items: tuple[Any, ...]) -> Layout:
    """items: an int selects, (start, count, step) slices, None adds an axis of size 1.

    One per axis, already in range.
    """
    new_shape, new_strides, offset, axis = [], [], 0, 0
    for item in items:
        if item is None:
            new_shape.append(1)
            new_strides.append(0)
            continue
        if item.__class__ is tuple:
            start, count, step = item
            new_shape.append(count)
            new_strides.append(strides[axis] * step)
            offset += start * strides[axis] if count else 0
        else:
            offset += item * strides[axis]
        axis += 1
    return tuple(new_shape), tuple(new_strides), offset


def _flip(shape: Shape, strides: Shape, axes: Shape) -> Layout:
    offset = sum((shape[a] - 1) * strides[a] for a in axes if shape[a])
    return shape, tuple(-st if a in axes else st for a, st in enumerate(strides)), offset


def _windows(shape: Shape, strides: Shape, axis: int, size: int, step: int, dilation: int) -> Layout:
    count = (shape[axis] - dilation * (size - 1) - 1) // step + 1
    new_shape = (*shape[:axis], count, *shape[axis + 1 :], size)
    return new_shape, (*strides[:axis], strides[axis] * step, *strides[axis + 1 :], strides[axis] * dilation), 0


def _as_strided(shape: Shape, strides: Shape, size: Shape, stride: Shape, offset: int) -> Layout | None:
    _check_inside("as_strided", shape, size, stride, offset)
    return (size, stride, offset) if is_dense(shape, strides) else None


def _check_inside(name: str, shape: Shape, size: Shape, stride: Shape, offset: int) -> None:
    if len(size) != len(stride):
        raise ShapeError(f"{name}: sizes {size} and strides {stride} differ in length")
    low, high = extent(size, stride)
    if 0 not in size and (offset + low < 0 or offset + high > numel(shape)):
        raise ShapeError(f"{name}: sizes {size}, strides {stride}, offset {offset} reach outside of {shape}")


reshape: Op = view("reshape", "x -> y", _reshape,
    samples=[s((4, 6), to=(3, 8)), s((), to=(1, 1)), s((0, 3), to=(3, 0))],
    doc="Read the elements, in row-major order, in another shape.",
    errors=[raises(ShapeError, "no view of shape", (4, 6), to=(5, 5))])
permute: Op = view("permute", "x -> y", _permute,
    samples=[s((2, 3, 4), axes=(2, 0, 1)), s((3, 0), axes=(1, 0)), s((), axes=())],
    doc="Reorder axes.")
expand: Op = view("expand", "x -> y", _expand, samples=[s((3, 1), to=(2, 3, 4)), s((), to=(2,)), s((1, 0), to=(4, 0))],
    doc="Repeat axes of size 1 without copying.",
    errors=[raises(ShapeError, "does not broadcast", (3, 2), to=(3, 4))])
subscript: Op = view("subscript", "x -> y", _subscript,
    samples=[s((5, 6), items=((1, 2, 2), 3)), s((4,), items=(None, (3, 4, -1))), s((0, 2), items=((0, 0, 1), 1))],
    doc="Select, slice and insert axes: what basic indexing does.")
barrier: Op = view("barrier", "x -> y", lambda shape, strides, number: (shape, strides, 0),
    samples=[s((3, 4), number=1), s((), number=2), s((0, 2), number=1)],
    doc="Return x; no pass looks through it. What is computed again in a Graph reads its operands behind barriers.")
flip: Op = view("flip", "x -> y", _flip, samples=[s((4, 5), axes=(0,)), s((2, 3, 4), axes=(0, 2)),
        s((0, 2), axes=(1,))], doc="Reverse axes.")
as_strided: Op = view("as_strided", "x -> y", _as_strided,
    samples=[s((4, 6), size=(3, 2), stride=(6, 2), offset=1), s((5,), size=(3, 3), stride=(1, 1), offset=0),
        s((0, 2), size=(2, 0), stride=(1, 1), offset=0)],
    doc="Read the row-major elements through any strides (in elements) from an offset on.",
    errors=[raises(ShapeError, "reach outside", (4, 2), size=(3, 3), stride=(3, 1), offset=0)])
windows: Op = view("windows", "x -> y", _windows,
    samples=[s((2, 9), axis=1, size=3, step=2, dilation=1), s((7,), axis=0, size=2, step=1, dilation=3),
        s((5,), axis=0, size=5, step=1, dilation=1)],
    doc="Read all windows of a size along one axis; the place within a window becomes the last axis.")


# ---- copy ops: out = fill, then each operand copied into its region ------------------------------------------------
def _concat_spec(*xs: Spec, axis: int) -> Spec:
    first = xs[0]
    for x in xs:
        same = x.ndim == first.ndim and all(
            a == b for d, (a, b) in enumerate(zip(x.shape, first.shape, strict=True)) if d != axis
        )
        if not same:
            raise ShapeError(f"concat: shapes must agree except at axis {axis}: {[y.shape for y in xs]}")
    total = sum(x.shape[axis] for x in xs)
    return Spec((*first.shape[:axis], total, *first.shape[axis + 1 :]), first.dtype)


def _concat_regions(out: Spec, *xs: Spec, axis: int) -> list[tuple[int, Layout]]:
    strides, offset, regions = dense_strides(out.shape), 0, []
    for k, x in enumerate(xs):
        regions.append((k, (x.shape, strides, offset)))
        offset += x.shape[axis] * strides[axis]
    return regions


def _concat_grad(g: Any, shape_xs: Any, axis: int) -> list[Any]:
    out, start = [], 0
    for shape in shape_xs:
        out.append(narrow(g, axis, start, shape[axis]))
        start += shape[axis]
    return out


def _pad_spec(x: Spec, value: float, widths: Any) -> Spec:
    if len(widths) != x.ndim:
        raise ShapeError(f"pad: one pair of widths per axis is needed: {len(widths)} for shape {x.shape}")
    if any(n < 0 for pair in widths for n in pair):
        raise ArgumentError(f"pad: widths must not be negative: {widths}; slice instead")
    return Spec(tuple(n + lo + hi for n, (lo, hi) in zip(x.shape, widths, strict=True)), x.dtype)


def _pad_regions(out: Spec, x: Spec, widths: Any) -> list[tuple[int, Layout]]:
    strides = dense_strides(out.shape)
    return [(0, (x.shape, strides, sum(lo * st for (lo, _), st in zip(widths, strides, strict=True))))]


def _pad_grad(g: Any, shape_x: Shape, widths: Any) -> Any:
    return subscript(g, tuple((lo, n, 1) for (lo, _), n in zip(widths, shape_x, strict=True)))


def _write_spec(x: Spec, y: Spec, items: Any) -> Spec:
    region = _subscript(x.shape, dense_strides(x.shape), items)[0]
    if y.shape != region or y.dtype is not x.dtype:
        raise ShapeError(f"write: what is written must be like the region, {x.dtype.name}{list(region)}: {y}")
    return x


def _write_regions(out: Spec, x: Spec, y: Spec, items: Any) -> list[tuple[int, Layout]]:
    dense = dense_strides(out.shape)
    return [(0, (out.shape, dense, 0)), (1, _subscript(out.shape, dense, items))]


def _write_reference(x: Any, y: Any, items: Any) -> Any:
    out = x.copy()
    shape, strides, offset = _subscript(x.shape, dense_strides(x.shape), items)
    step = out.itemsize
    region = np.lib.stride_tricks.as_strided(out.reshape(-1)[offset:], shape, [n * step for n in strides])
    region[...] = y
    return out


def _scatter_spec(x: Spec, y: Spec, stride: Shape, offset: int) -> Spec:
    _check_inside("as_strided_scatter", x.shape, y.shape, stride, offset)
    if overlaps(y.shape, stride):
        raise ShapeError(f"as_strided_scatter: sizes {y.shape} with strides {stride} write some elements twice")
    if y.dtype is not x.dtype:
        raise DTypeError(f"as_strided_scatter: {y.dtype.name} cannot be written into {x.dtype.name}")
    return x


def _scatter_regions(out: Spec, x: Spec, y: Spec, stride: Shape, offset: int) -> list[tuple[int, Layout]]:
    return [(0, (out.shape, dense_strides(out.shape), 0)), (1, (y.shape, stride, offset))]


def _scatter_reference(x: Any, y: Any, stride: Shape, offset: int) -> Any:
    out = x.copy()
    if y.size:
        steps = [n * out.itemsize for n in stride]
        np.lib.stride_tricks.as_strided(out.reshape(-1)[offset:], y.shape, steps)[...] = y
    return out


concat: Op = Op("concat", "xs* -> y", tier="copy", category="copy", spec=_concat_spec, layout=_concat_regions,
    num=EXACT,
    reference=lambda *xs, axis: np.concatenate(xs, axis), vjp={"xs": _concat_grad},
    samples=[s([(2, 3), (4, 3)], axis=0), s([(2, 3), (2, 1), (2, 0)], axis=1), s([(5,)], axis=0)],
    doc="Join tensors along an axis.",
    errors=[raises(ShapeError, "agree except at axis", [(2, 3), (3, 4)], axis=0)])
pad: Op = Op("pad", "x value# -> y", tier="copy", category="copy", spec=_pad_spec, layout=_pad_regions, num=EXACT,
    reference=lambda x, value, widths: np.pad(x, widths, constant_values=value).astype(x.dtype) if widths else x.copy(),
    vjp={"x": _pad_grad},
    samples=[s((2, 3), 1.5, widths=((1, 0), (2, 3))), s((0, 2), 0.0, widths=((1, 1), (0, 0))), s((), 0.0, widths=())],
    doc="Surround with a value: widths (before, after) per axis.",
    errors=[raises(ShapeError, "one pair of widths", (2, 3), 0.0, widths=((1, 1),)),
        raises(ArgumentError, "negative", (3,), 0.0, widths=((-1, 0),))])
copy: Op = Op("copy", "x -> y", tier="copy", category="copy", spec=lambda x: x,
    layout=lambda out, x: [(0, (x.shape, dense_strides(x.shape), 0))], num=EXACT,
    reference=lambda x: x.copy(), vjp={"x": lambda g: g}, samples=[s((4, 5)), s(()), s((0, 3))],
    doc="Copy to new memory, row-major.",
    errors=[raises(DTypeError, "tensor", 3.0)])
write: Op = Op("write", "x y -> z", tier="copy", category="copy", spec=_write_spec, layout=_write_regions, num=EXACT,
    reference=_write_reference,
    vjp={"x": lambda g, shape_y, items: write(g, g.new_zeros(shape_y), items),
        "y": lambda g, items: subscript(g, items)},
    samples=[s((5, 6), (2,), items=((1, 2, 2), 3)), s((4,), (4,), items=((3, 4, -1),)),
        s((3, 2), (3, 0), items=((0, 3, 1), (0, 0, 1)))],
    doc="Return x with y written over the region that items describe.",
    errors=[raises(ShapeError, "the region", (4,), (3,), items=((0, 2, 1),))])

as_strided_scatter: Op = Op("as_strided_scatter", "x y -> z", tier="copy", category="copy", spec=_scatter_spec,
    layout=_scatter_regions, num=EXACT, reference=_scatter_reference,
    vjp={"x": lambda g, shape_y, stride, offset: as_strided_scatter(g, g.new_zeros(shape_y), stride, offset),
        "y": lambda g, shape_y, stride, offset: as_strided(g, shape_y, stride, offset)},
    samples=[s((4, 6), (3, 2), stride=(6, 2), offset=1), s((5,), (3,), stride=(-1,), offset=4),
        s((3, 2), (0, 2), stride=(2, 1), offset=0)],
    doc="Return x with y written over the elements that its strides and offset select.",
    errors=[raises(ShapeError, "twice", (4,), (3, 2), stride=(1, 1), offset=0)])


def narrow(x: Any, axis: int, start: int, count: int) -> Any:
    """Return the view of `count` indices from `start` on along one axis."""
    return subscript(x, tuple((start, count, 1) if d == axis else (0, n, 1) for d, n in enumerate(x.shape)))


def transpose_last(x: Any) -> Any:
    """Swap the last two axes: (..., m, n) -> (..., n, m)."""
    n = x.ndim
    return permute(x, (*range(n - 2), n - 1, n - 2))
