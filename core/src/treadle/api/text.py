"""How tensors print: NumPy's number formatting in PyTorch's dress."""

from typing import Any

import numpy as np

from treadle import dtypes
from treadle._tensor import Tensor, is_leaf_node
from treadle.api.convert import numpy_copy
from treadle.runtime.device import get_default_device


class _Options:
    precision, threshold, edgeitems, linewidth = 4, 1000, 3, 80


def set_printoptions(precision: int | None = None, threshold: int | None = None, edgeitems: int | None = None, linewidth: int | None = None) -> None:
    """Set how tensors print: digits, when to summarise, how many items to show at the ends, and the width.

    >>> import treadle as td
    >>> td.set_printoptions(precision=4)
    """
    for name, value in (("precision", precision), ("threshold", threshold), ("edgeitems", edgeitems), ("linewidth", linewidth)):
        if value is not None:
            setattr(_Options, name, int(value))


def _number_format(array: Any) -> Any:
    finite = array[np.isfinite(array)]
    whole = finite.size == 0 or bool(np.all(finite == np.round(finite)))
    largest = float(np.abs(finite).max()) if finite.size else 0.0
    smallest = float(np.abs(finite[finite != 0]).min()) if np.any(finite != 0) else largest
    if largest >= 1e8 or (smallest and (largest / smallest > 1000 or smallest < 1e-4) and not whole):
        digits = _Options.precision
        return lambda v: f"{v:.{digits}e}"
    if whole:
        return lambda v: f"{v:.0f}." if np.isfinite(v) else str(v)
    return lambda v: f"{v:.{_Options.precision}f}"


def __repr__(x: Tensor) -> str:
    array = numpy_copy(x.detach())
    o = _Options
    with np.printoptions(threshold=o.threshold, edgeitems=o.edgeitems, linewidth=o.linewidth):
        if x.dtype.kind == "f":
            wide = array.astype(np.float64)
            number = _number_format(wide)
            if wide.size == 0:
                body = "[]"
            else:
                shown = np.array2string(wide, separator=", ", prefix="tensor(", formatter={"float_kind": number})
                body = _aligned(wide, number, shown)
        else:
            body = np.array2string(array, separator=", ", prefix="tensor(") if array.size else "[]"
    return f"tensor({body}{_suffix(x, array)})"


def _aligned(wide: Any, number: Any, shown: str) -> str:
    """Right-align the numbers when there is more than one."""
    if wide.ndim == 0:
        return str(number(float(wide)))
    if wide.size > _Options.threshold:
        return shown
    width = max(len(number(v)) for v in wide.reshape(-1))
    return np.array2string(wide, separator=", ", prefix="tensor(", formatter={"float_kind": lambda v: number(v).rjust(width)})


def _suffix(x: Tensor, array: Any) -> str:
    parts = []
    if array.size == 0 and x.shape != (0,):
        parts.append(f"size={x.shape}")
    if x.device is not get_default_device():
        parts.append(f"device='{x.device}'")
    if x.dtype not in (dtypes.get_default_dtype(), dtypes.int64, dtypes.bool_) or (array.size == 0 and x.dtype is not dtypes.get_default_dtype()):
        parts.append(f"dtype={x.dtype!r}")
    node = x.node
    if node is not None:
        parts.append("requires_grad=True" if is_leaf_node(node) else f"grad_fn=<{(node[0] if node.__class__ is tuple else node)[1].name}>")
    return "".join(", " + p for p in parts)


def __format__(x: Tensor, spec: str) -> str:
    return format(x.item(), spec) if x.ndim == 0 else object.__format__(x, spec)


METHODS = {"__repr__": __repr__, "__format__": __format__}
