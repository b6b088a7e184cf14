"""Subscripts: integers, slices, None and Ellipsis are views.

Integer arrays and boolean masks gather; assignment writes through.
"""

from typing import Any

import numpy as np

from treadle import creation, dtypes
from treadle._tensor import Tensor, make_view
from treadle.api.remember import remember
from treadle.eager.inplace import copy_
from treadle.errors import ArgumentError, IndexRangeError, ShapeError
from treadle.ir.dim import Dim, dim_max, dim_min
from treadle.op import FN, STATE, tracing
from treadle.shapes import broadcast
from treadle.sig import Sig, sig_of

FULL = slice(None)


def __getitem__(x: Tensor, key: Any) -> Tensor:
    known = None
    if not STATE.special:
        if key.__class__ is int:
            row = x.sig.item_row or _item_row(x.sig)
            if row is not None:
                n, sig, step = row
                if -n <= key < n:
                    return make_view(x, sig, (key if key >= 0 else key + n) * step)
        else:
            known = _basic_key(key)
            if known is not None:
                try:
                    sig, offset = x.sig.__dict__["view_item"][known]
                except KeyError:
                    pass
                else:
                    return make_view(x, sig, offset)
    if isinstance(key, Tensor) and key.sig.ndim and key.sig.dtype in (dtypes.int32, dtypes.int64) and x.sig.ndim:
        return FN["gather_nd"](x, key.unsqueeze(-1))
    if isinstance(key, Tensor) and key.sig.dtype is dtypes.bool_ and key.sig.ndim and key.shape == x.shape[: key.ndim]:
        if key.ndim > 1 and key.shape == x.shape:
            x, key = x.reshape(-1), key.reshape(-1)
        return FN["gather_nd"](x, FN["nonzero"](key))
    basic, advanced = _split(x, _expand(x, key))
    y = FN["subscript"](x, tuple(basic)) if basic is not None else x
    if known is not None:
        remember("view_item", x, known, y)
    return y if not advanced else _gather(y, advanced)


def _basic_key(key: Any) -> Any:
    """A hashable form of a key of integers, slices, None and Ellipsis only.

    None for any other (True equals 1, a tensor may change).
    """
    out: list[Any] = []
    for item in key if key.__class__ is tuple else (key,):
        if item.__class__ is slice:
            start, stop, step = item.start, item.stop, item.step
            if (
                (start is not None and start.__class__ is not int)
                or (stop is not None and stop.__class__ is not int)
                or (step is not None and step.__class__ is not int)
            ):
                return None
            out.append((start, stop, step))
        elif item.__class__ is int or item is None or item is Ellipsis:
            out.append(item)
        else:
            return None
    return tuple(out)


def _item_row(sig: Sig) -> Any:
    """How `x[integer]` looks for tensors of this signature: (size, sig of an item, elements from one to the next)."""
    if sig.ndim:
        item = sig_of(sig.dtype, sig.shape[1:], sig.strides[1:], sig.device)
        sig.item_row = sig.shape[0], item, sig.strides[0] if item.size else 0
    return sig.item_row


def __setitem__(x: Tensor, key: Any, value: Any) -> None:
    if key.__class__ is int or _basic_key(key) is not None:
        target = __getitem__(x, key)
        copy_(target, _squeeze_lead(_value(value, x), target.shape))
        return
    if _is_mask(x, key) and not (isinstance(value, Tensor) and value.ndim):  # no need to know where it holds
        copy_(x, FN["where"](key, _value(value, x), x))
        return
    basic, advanced = _split(x, _expand(x, key))
    target = FN["subscript"](x, tuple(basic)) if basic is not None else x
    if not advanced:
        copy_(target, _squeeze_lead(_value(value, x), target.shape))
    else:
        copy_(target, _scatter(target, advanced, _value(value, x)))


def _is_mask(x: Tensor, key: Any) -> bool:
    return isinstance(key, Tensor) and key.dtype.kind == "b" and key.shape == x.shape


def _value(value: Any, x: Tensor) -> Tensor:
    """An assigned value as a tensor on x's device."""
    if isinstance(value, Tensor):
        return value
    if x.dtype.kind == "f" and value.__class__ in (int, float):
        return creation.full_of((), value, x.dtype, x.device)
    return creation.tensor(value, None if isinstance(value, np.ndarray) else _kind_for(value, x), x.device)


def _kind_for(value: Any, x: Tensor) -> Any:
    """Python numbers take the target's dtype, unless that would lose a fraction silently (then the cast truncates, as
    PyTorch)."""
    return x.dtype if isinstance(value, (bool, int)) or x.dtype.kind == "f" else None


def _squeeze_lead(value: Tensor, shape: Any) -> Tensor:
    """Leading axes of size 1 of an assigned value may be more than the target has."""
    while value.ndim > len(shape) and value.shape[0] == 1:
        value = FN["reshape"](value, value.shape[1:])
    return value


def _expand(x: Tensor, key: Any) -> list[Any]:
    """The key as a list of items for every axis, Ellipsis resolved, masks turned into index arrays."""
    items: list[Any] = []
    for item in key if isinstance(key, tuple) else (key,):
        items += _as_items(x, item)
    used = sum(1 for i in items if i is not None and i is not Ellipsis and i.__class__ is not _Truth)
    if used > x.ndim:
        raise IndexRangeError(f"index: too many indices: {used} for a tensor of shape {x.shape}")
    dots = sum(1 for i in items if i is Ellipsis)
    if dots > 1:
        raise IndexRangeError("index: only one Ellipsis (...) is allowed")
    at = next((k for k, i in enumerate(items) if i is Ellipsis), len(items))
    rest = items[at + 1 :] if dots else []
    return items[:at] + [FULL] * (x.ndim - used) + rest


def _as_items(x: Tensor, item: Any) -> list[Any]:
    if item is None or item is Ellipsis or isinstance(item, slice):
        return [item]
    if isinstance(item, (bool, np.bool_)):
        return [_Truth(x, bool(item))]
    if hasattr(item, "__index__") and not isinstance(item, (Tensor, np.ndarray)):
        return [item.__index__()]
    if isinstance(item, (list, range, np.ndarray)):
        array = creation.to_array(list(item) if isinstance(item, range) else item)
        item = creation.from_array(
            array if array.size or isinstance(item, np.ndarray) else array.astype(np.int64), x.device
        )
    if not isinstance(item, Tensor):
        raise IndexRangeError(
            f"index: expected integers, slices, None, ..., masks or integer arrays: {type(item).__name__}"
        )
    if item.dtype.kind == "f":
        raise IndexRangeError(f"index: an index tensor must be of integers or bools: {item.dtype.name}")
    if item.dtype.kind == "b":
        where = FN["nonzero"](item)
        return [_Column(where, d, item.shape) for d in range(item.ndim)] if item.ndim else [_Truth(x, item.item())]
    return [item.item()] if item.ndim == 0 and item.node is None and not tracing() else [item]


class _Truth:
    """A mask without dimensions: a new axis, of which it takes the one element or none."""

    def __init__(self, x: Tensor, value: bool) -> None:
        self.tensor = x.new_zeros(int(value), dtype=dtypes.int64)


class _Column:
    """One axis of a boolean mask: the coordinates of its true elements along that axis."""

    def __init__(self, where: Tensor, axis: int, shape: Any) -> None:
        self.tensor, self.size = FN["subscript"](where, ((0, where.shape[0], 1), axis)), shape[axis]


def _split(x: Tensor, items: list[Any]) -> tuple[Any, list[tuple[int, Tensor]]]:
    """(items of the view op, or None for the whole; [(axis of the view, index tensor)])."""
    basic: list[Any] = []
    advanced: list[tuple[int, Tensor]] = []
    axis = out = 0
    for item in items:
        if item is None or item.__class__ is _Truth:
            if item is not None:
                advanced.append((out, item.tensor))
            basic.append(None)
            out += 1
            continue
        n = x.shape[axis]
        if isinstance(item, slice):
            basic.append(_range(item, n))
            out += 1
        elif isinstance(item, int):
            if not -n <= item < n:
                raise IndexRangeError(f"index: {item} is out of range for axis {axis} of size {n} (shape {x.shape})")
            basic.append(item % n)
        else:
            if isinstance(item, _Column):
                if item.size != n:
                    raise IndexRangeError(
                        f"index: the mask has size {item.size} where the tensor has {n} (axis {axis}, shape {x.shape})"
                    )
                item = item.tensor
            advanced.append((out, item))
            basic.append((0, n, 1))
            out += 1
        axis += 1
    whole = all(i == (0, n, 1) for i, n in zip(basic, x.shape, strict=False)) and len(basic) == x.ndim
    return (None if whole and advanced else basic), advanced


def _symbolic_range(item: slice, n: Any) -> tuple[Any, Any, int]:
    """(start, count, step) of a slice of an axis whose size is symbolic."""
    step = 1 if item.step is None else item.step
    if step.__class__ is not int or step < 1:
        raise ArgumentError(f"index: a slice of an axis of symbolic size {n} needs a positive step: {item}")

    def inside(k: Any, default: Any) -> Any:
        return default if k is None else dim_min(k, n) if k >= 0 else dim_max(n + k, 0)

    start = inside(item.start, 0)
    return start, dim_max((inside(item.stop, n) - start + step - 1) // step, 0), step


def _range(item: slice, n: int) -> tuple[int, int, int]:
    if isinstance(n, Dim):
        return _symbolic_range(item, n)
    try:
        start, stop, step = item.indices(n)
    except (TypeError, ValueError) as e:
        raise ArgumentError(f"index: a slice needs integers and a step that is not zero: {item}: {e}") from None
    return start, len(range(start, stop, step)), step


def _coordinates(y: Tensor, advanced: list[tuple[int, Tensor]]) -> tuple[Tensor, list[int], int]:
    """(index (..., k), axis order that brings the indexed axes first, where the result's index axes go)."""
    tensors = [t for _, t in advanced]
    try:
        shape = broadcast("index", *(t.shape for t in tensors))
    except ShapeError as e:
        raise IndexRangeError(str(e)) from None
    wide = [
        FN["expand"](t.to(dtypes.int64) if t.dtype.itemsize < 4 or t.dtype.kind == "u" else t, shape) for t in tensors
    ]
    index = wide[0].unsqueeze(-1) if len(wide) == 1 else wide[0].stack(wide, -1)
    axes = [a for a, _ in advanced]
    together = axes == list(range(axes[0], axes[0] + len(axes)))
    order = axes + [d for d in range(y.ndim) if d not in axes]
    return index, order, axes[0] if together else 0


def _gather(y: Tensor, advanced: list[tuple[int, Tensor]]) -> Tensor:
    index, order, place = _coordinates(y, advanced)
    front = y if order == sorted(order) else FN["permute"](y, tuple(order))
    out = FN["gather_nd"](front, index)
    lead = index.ndim - 1
    if place:
        moved = [*range(lead, lead + place), *range(lead), *range(lead + place, out.ndim)]
        out = FN["permute"](out, tuple(moved))
    return out


def _scatter(target: Tensor, advanced: list[tuple[int, Tensor]], value: Tensor, mode: str = "set") -> Tensor:
    """The target with `value` at the indexed places, as a new tensor."""
    index, order, place = _coordinates(target, advanced)
    lead = index.ndim - 1
    front = target if order == sorted(order) else FN["permute"](target, tuple(order))
    rest = front.shape[index.shape[-1] :]
    shape = (*rest[:place], *index.shape[:-1], *rest[place:])
    value = FN["expand"](_squeeze_lead(value.to(target.dtype), shape), shape)
    if place:
        value = FN["permute"](value, (*range(place, place + lead), *range(place), *range(place + lead, len(shape))))
    out = FN["scatter_nd"](front, index, value, mode)
    if order == sorted(order):
        return out
    back = tuple(order.index(d) for d in range(len(order)))
    return FN["permute"](out, back)


def __iter__(x: Tensor) -> Any:
    if x.ndim == 0:
        raise TypeError("iteration over a 0-d tensor")
    return iter([__getitem__(x, i) for i in range(x.shape[0])])


def index_put(x: Tensor, indices: Any, values: Tensor, accumulate: bool = False) -> Tensor:
    """Return x with values at the places that index tensors name; accumulate adds instead.

    >>> import treadle as td
    >>> td.zeros(3).index_put((td.tensor([0, 0]),), td.ones(2), accumulate=True)
    tensor([2., 0., 0.])
    """
    _, advanced = _split(x, _expand(x, tuple(indices)))
    return _scatter(x, advanced, values, "add" if accumulate else "set")


METHODS = {"__getitem__": __getitem__, "__setitem__": __setitem__, "__iter__": __iter__, "index_put": index_put}
