"""Sig: the interned signature of a tensor (dtype, shape, strides, device), which is the key of dispatch.

A sig has a row per op, an attribute of that op's name, filled at the first call: so a warm call is one look-up by
identity. The offset is not part of it: a view's storage handle already points at its first element. Nothing may depend
on two equal sigs being one object; the table is emptied when it grows too large.
"""

from typing import Any

from treadle.dtypes import DEFAULT_CHANGED, DType
from treadle.errors import DimError
from treadle.shapes import Shape, Size, dense_strides, is_dense, numel

MAX_SIGS = 1 << 16


class Sig:
    """dtype, shape, strides (elements), device; and the rows of resolved calls as further attributes."""

    item_row: Any = None  # what `x[integer]` needs

    def __init__(self, dtype: DType, shape: Shape, strides: Shape, device: Any) -> None:
        self.dtype, self.shape, self.strides, self.device = dtype, Size(shape), strides, device
        self.ndim = len(shape)
        self.size = numel(shape)
        self.layout = layout_class(shape, strides)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def __repr__(self) -> str:
        return f"{self.dtype.name}{list(self.shape)}:{self.layout}@{self.device}"


def layout_class(shape: Shape, strides: Shape) -> str:
    """One of dense, broadcast0, dense_inner, matrix_t, strided (CONTRACT: Views, strides, in-place)."""
    if is_dense(shape, strides):
        return "dense"
    if any(s == 0 and n != 1 for n, s in zip(shape, strides, strict=True)):
        return "broadcast0"
    if any(s < 0 for s in strides):
        return "strided"
    if len(shape) >= 2:
        (m, n), (row, column) = shape[-2:], strides[-2:]
        try:
            if (column == 1 or n == 1) and (row >= n or m == 1):
                return "dense_inner"
            if (row == 1 or m == 1) and (column >= m or n == 1):
                return "matrix_t"
        except DimError:  # symbolic sizes that may be either way
            return "strided"
    return "dense_inner" if shape and (strides[-1] == 1 or shape[-1] == 1) else "strided"


_TABLE: dict[Any, Sig] = {}
_DENSE: dict[Any, Sig] = {}


def sig_of(dtype: DType, shape: Shape, strides: Shape, device: Any) -> Sig:
    """Return the interned sig; dense layouts get canonical strides, so that they are one sig however they were made."""
    if is_dense(shape, strides):
        return dense_sig(dtype, shape, device)
    key = (dtype, shape, strides, device)
    found = _TABLE.get(key)
    if found is None:
        if len(_TABLE) >= MAX_SIGS:
            _TABLE.clear()
        found = _TABLE[key] = Sig(dtype, shape, strides, device)
    return found


def dense_sig(dtype: DType, shape: Shape, device: Any) -> Sig:
    """Return the interned sig of a row-major tensor."""
    key = (dtype, shape, device)
    found = _DENSE.get(key)
    if found is None:
        if len(_DENSE) >= MAX_SIGS:
            _DENSE.clear()
        found = _DENSE[key] = Sig(dtype, shape, dense_strides(shape), device)
    return found


def forget_rows(names: Any = None) -> None:
    """Drop resolved calls (all, or of the named ops): after a change of policy or of what a backend claims."""
    fixed = {"dtype", "shape", "strides", "device", "ndim", "size", "layout"}
    for table in (_TABLE, _DENSE):
        for sig in list(table.values()):
            for name in [n for n in vars(sig) if n not in fixed and (names is None or n in names)]:
                vars(sig).pop(name, None)


DEFAULT_CHANGED.append(forget_rows)
