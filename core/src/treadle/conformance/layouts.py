"""How an operand may lie in memory. Each layout reads the same elements through other strides or another offset."""

from collections.abc import Callable
from typing import Any

import numpy as np

from treadle import creation
from treadle.op import CATALOGUE

LEAD = 3  # elements before an offset operand: no vector or cache line starts there


def _op(name: str, x: Any, *attrs: Any) -> Any:
    return CATALOGUE[name].fn(x, *attrs)


def _whole(x: Any) -> tuple[Any, ...]:
    return tuple((0, n, 1) for n in x.shape)


def _dense(a: Any, device: Any) -> Any:
    return creation.from_array(a, device)


def _permuted(axes: tuple[int, ...]) -> Callable[[Any, Any], Any]:
    back = tuple(int(k) for k in np.argsort(axes))
    return lambda a, device: _op("permute", _dense(np.ascontiguousarray(a.transpose(axes)), device), back)


def _transposed(a: Any, device: Any) -> Any:
    n = a.ndim
    return _permuted((*range(n - 2), n - 1, n - 2))(a, device)


def _reversed(a: Any, device: Any) -> Any:
    return _permuted(tuple(range(a.ndim))[::-1])(a, device)


def _offset(a: Any, device: Any) -> Any:
    flat = np.concatenate([np.ones(LEAD, a.dtype), a.reshape(-1), np.ones(2, a.dtype)])
    return _op("reshape", _op("subscript", _dense(flat, device), ((LEAD, a.size, 1),)), a.shape)


def _spaced(a: Any, device: Any) -> Any:
    """Every second element of wider rows: no axis has stride 1."""
    wide = np.ones((*a.shape[:-1], 2 * a.shape[-1] + 1), a.dtype)
    wide[..., 1::2] = a
    x = _dense(wide, device)
    return _op("subscript", x, (*_whole(x)[:-1], (1, a.shape[-1], 2)))


def _rows(a: Any, device: Any) -> Any:
    """The left part of wider rows: stride 1 along the last axis, gaps between rows."""
    wide = np.concatenate([a, np.ones((*a.shape[:-1], LEAD), a.dtype)], -1)
    x = _dense(wide, device)
    return _op("subscript", x, (*_whole(x)[:-1], (0, a.shape[-1], 1)))


def _flipped(a: Any, device: Any) -> Any:
    axes = tuple(range(a.ndim))
    return _op("flip", _dense(np.ascontiguousarray(np.flip(a, axes)), device), axes)


def _broadcast(a: Any, device: Any) -> Any:
    axis = repeated_axis(a.shape)
    return _op("expand", _dense(np.ascontiguousarray(a.take([0], axis)), device), a.shape)


def repeated_axis(shape: tuple[int, ...]) -> int:
    """The axis along which a broadcast operand repeats: the first with several elements."""
    return next(d for d, n in enumerate(shape) if n > 1)


PLACE: dict[str, Callable[[Any, Any], Any]] = {
    "dense": _dense, "transposed": _transposed, "reversed": _reversed, "offset": _offset, "spaced": _spaced,
    "rows": _rows,
    "flipped": _flipped, "broadcast": _broadcast,
}  # fmt: skip
LEAST_RANK = {
    "dense": 0,
    "transposed": 2,
    "reversed": 3,
    "offset": 0,
    "spaced": 1,
    "rows": 2,
    "flipped": 1,
    "broadcast": 1,
}
VARIANTS = tuple(name for name in PLACE if name != "dense")


def fits(layout: str, shape: tuple[int, ...]) -> bool:
    """Whether a layout differs from dense for this shape."""
    if len(shape) < LEAST_RANK[layout] or 0 in shape:
        return False
    return layout != "broadcast" or any(n > 1 for n in shape)


def repeat(a: Any) -> Any:
    """Make an array constant along the axis that its broadcast form repeats."""
    axis = repeated_axis(a.shape)
    return np.ascontiguousarray(np.broadcast_to(a.take([0], axis), a.shape))


def place(a: Any, layout: str, device: Any) -> Any:
    """Return a tensor on a device with the elements of an array, in a layout."""
    return PLACE[layout](a, device)
