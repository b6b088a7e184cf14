"""Layouts over row-major memory, turned back into view ops, so that a batch axis can be put in front.

A layout is (shape, strides, offset) in elements over a root, as everywhere. Most were made by slicing, reordering and
regrouping axes; what was not is read by strides.
"""

from typing import Any, NamedTuple

from treadle.api.convert import contiguous
from treadle.errors import DimError
from treadle.op import FN
from treadle.shapes import Shape, dense_strides, numel

Layout = tuple[Any, Any, int]  # shape, strides, offset in elements


class Steps(NamedTuple):
    """How to read a layout: regroup the root, take slices, reorder; then add axes of size 1 and repeat."""

    grid: Shape | None  # the root's shape regrouped; None: as it is
    items: tuple[Any, ...]  # one per axis of the grid: an index, or (start, count, step)
    axes: Shape  # order of the axes that are left
    kept: Shape  # which axes of the layout these are


def steps(root: Shape, layout: Layout) -> Steps | None:
    """Find the steps that read a layout over a row-major root; None where there are none."""
    try:
        found = _sliced(root, layout)
        if found is None:
            grid = _grid(root, layout)
            found = None if grid is None else _sliced(grid, layout)
            found = None if found is None else found._replace(grid=grid)
        return found
    except DimError:  # symbolic sizes that may lie either way
        return None


def _moving(layout: Layout) -> list[int]:
    """The axes along which memory is walked."""
    shape, strides, _ = layout
    return [d for d, (n, s) in enumerate(zip(shape, strides, strict=True)) if n != 1 and s != 0]


def _sliced(root: Shape, layout: Layout) -> Steps | None:
    """Every axis of the layout as a slice of another axis of the root."""
    shape, strides, offset = layout
    kept, dense = _moving(layout), dense_strides(root)
    rest = offset + sum((shape[d] - 1) * strides[d] for d in kept if strides[d] < 0)
    items: list[Any] = []
    for step in dense:
        first, rest = divmod(rest, step)
        items.append(first)
    if any(first >= n for first, n in zip(items, root, strict=True)):
        return None
    order: list[int] = []
    for d in kept:
        far = abs(strides[d])
        axis = next((k for k, n in enumerate(root) if n != 1 and far % dense[k] == 0), None)
        if axis is None or axis in order:
            return None
        first, count, step = items[axis], shape[d], far // dense[axis]
        if first + (count - 1) * step >= root[axis]:
            return None
        items[axis] = (first, count, step) if strides[d] > 0 else (first + (count - 1) * step, count, -step)
        order.append(axis)
    sources = sorted(order)
    return Steps(None, tuple(items), tuple(sources.index(a) for a in order), tuple(kept))


def _grid(root: Shape, layout: Layout) -> Shape | None:
    """The root regrouped so that every stride of the layout is one of its own."""
    size, grid, before = numel(root), [], numel(root)
    for far in sorted({abs(layout[1][d]) for d in _moving(layout)}, reverse=True):
        if before % far:
            return None
        grid.append(before // far)
        before = far
    grid.append(before)
    return tuple(grid) if numel(grid) == size else None


def lead(value: Any, batched: bool) -> Shape:
    """The batch axis of a tensor as a shape: (B,) or ()."""
    return value.shape[:1] if batched else ()  # type: ignore[no-any-return]


def _whole(shape: Shape) -> tuple[Any, ...]:
    return tuple((0, n, 1) for n in shape)


def _subscript(x: Any, items: tuple[Any, ...]) -> Any:
    return x if items == _whole(x.shape) else FN["subscript"](x, items)


def _permute(x: Any, axes: Shape) -> Any:
    return x if axes == tuple(range(len(axes))) else FN["permute"](x, axes)


def _reshape(x: Any, shape: Shape) -> Any:
    return x if x.shape == shape else FN["reshape"](x, shape)


def read(value: Any, batched: bool, layout: Layout, repeat: bool = True) -> Any:
    """Read a layout out of a root, which has a batch axis in front if batched. repeat=False leaves repeated axes at
    size 1."""
    shape, strides, offset = layout
    front = lead(value, batched)
    root = value.shape[len(front) :]
    if 0 in shape:
        return value.new_zeros((*front, *shape))
    if offset == 0 and root == shape and strides == dense_strides(shape):
        return value
    found = steps(root, layout)
    if found is None:
        step = (numel(root),) if batched else ()
        return FN["as_strided"](contiguous(value), (*front, *shape), (*step, *strides), offset)
    y = value if found.grid is None else _reshape(value, (*front, *found.grid))
    y = _subscript(y, (*_whole(front), *found.items))
    y = _permute(y, _behind(front, found.axes))
    if len(found.kept) < len(shape):
        items = tuple((0, n, 1) if d in found.kept else None for d, n in enumerate(shape))
        y = FN["subscript"](y, (*_whole(front), *items))
    return FN["expand"](y, (*front, *shape)) if repeat and y.shape[len(front) :] != shape else y


def _behind(front: Shape, axes: Shape) -> Shape:
    """An order of axes, with the batch axis staying in front."""
    return (*range(len(front)), *(a + len(front) for a in axes))


def window(value: Any, batched: bool, layout: Layout) -> Any:
    """The same as a view of the root's own memory, to write into; None where there is no such view."""
    front = lead(value, batched)
    if layout[0] == value.shape[len(front) :] and layout[2] == 0 and layout[1] == dense_strides(layout[0]):
        return value
    found = None if 0 in layout[0] else steps(value.shape[len(front) :], layout)
    return None if found is None or found.grid is not None else read(value, batched, layout)


def written(value: Any, batched: bool, layout: Layout, new: Any) -> Any:
    """The root with `new` written over what a layout reads; both have the batch axis, or neither."""
    shape, strides, offset = layout
    front = lead(value, batched)
    root = value.shape[len(front) :]
    if 0 in shape:
        return value
    found = steps(root, layout)
    if found is None:
        step = (numel(root),) if batched else ()
        return FN["as_strided_scatter"](value, new, (*step, *strides), offset)
    new = _reshape(new, (*front, *(shape[d] for d in found.kept)))
    back = tuple(found.axes.index(k) for k in range(len(found.axes)))
    new = _permute(new, _behind(front, back))
    whole = value if found.grid is None else _reshape(value, (*front, *found.grid))
    return _reshape(FN["write"](whole, new, (*_whole(front), *found.items)), value.shape)
