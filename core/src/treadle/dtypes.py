"""DType values, PyTorch's promotion rules, and the category order behind them."""

from collections.abc import Callable
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np

from treadle.errors import ArgumentError, DTypeError


class DType:
    """An element type. There is one object per type, so types compare by identity.

    >>> import treadle as td
    >>> td.float32.itemsize, td.float32.is_floating_point
    (4, True)
    """

    __slots__ = ("code", "is_floating_point", "is_signed", "itemsize", "kind", "name", "np", "short")

    name: str  # "float32"
    short: str  # "f32": used in kernel names and case ids
    code: int  # position in ALL: how a backend's C code names the type
    kind: str  # "b" bool, "i" signed, "u" unsigned, "f" floating point
    np: "np.dtype[Any]"
    itemsize: int

    def __init__(self, name: str, short: str, code: int, kind: str, np_dtype: Any) -> None:
        self.name, self.short, self.code, self.kind = name, short, code, kind
        self.np = np.dtype(np_dtype)
        self.itemsize = self.np.itemsize
        self.is_floating_point = kind == "f"
        self.is_signed = kind in "if"

    @property
    def is_complex(self) -> bool:
        return False

    def __repr__(self) -> str:
        return f"treadle.{self.name}"

    def __reduce__(self) -> tuple[Any, ...]:
        return dtype, (self.name,)


_TABLE = (
    ("bool", "b1", "b", np.bool_), ("int8", "i8", "i", np.int8), ("int16", "i16", "i", np.int16),
    ("int32", "i32", "i", np.int32), ("int64", "i64", "i", np.int64), ("uint8", "u8", "u", np.uint8),
    ("uint16", "u16", "u", np.uint16), ("uint32", "u32", "u", np.uint32), ("uint64", "u64", "u", np.uint64),
    ("float16", "f16", "f", np.float16), ("bfloat16", "bf16", "f", ml_dtypes.bfloat16),
    ("float32", "f32", "f", np.float32), ("float64", "f64", "f", np.float64),
)  # fmt: skip
ALL = tuple(DType(name, short, code, kind, t) for code, (name, short, kind, t) in enumerate(_TABLE))
(bool_, int8, int16, int32, int64, uint8, uint16, uint32, uint64, float16, bfloat16, float32, float64) = ALL
FLOATS = frozenset(d for d in ALL if d.kind == "f")
INTS = frozenset(d for d in ALL if d.kind in "iu")

_BY_NAME = {d.name: d for d in ALL} | {
    "half": float16, "float": float32, "double": float64, "short": int16, "int": int32, "long": int64,
}  # fmt: skip
_BY_NP = {d.np: d for d in ALL}
_BY_PYTHON: dict[Any, DType] = {bool: bool_, int: int64, float: float64}


class _Default:
    """The dtype of new float tensors; a class only so that it can be set."""

    dtype = float32


def get_default_dtype() -> DType:
    """Return the dtype that Python floats and unspecified float tensors get.

    >>> import treadle as td
    >>> td.get_default_dtype()
    treadle.float32
    """
    return _Default.dtype


def set_default_dtype(d: "DType | str") -> None:
    """Set the dtype of new float tensors; DTypeError unless it is a floating-point type.

    >>> import treadle as td
    >>> td.set_default_dtype(td.float32)
    """
    d = dtype(d)
    if d.kind != "f":
        raise DTypeError(f"set_default_dtype: only floating-point types are supported: {d}")
    _Default.dtype = d
    for listener in DEFAULT_CHANGED:
        listener()


DEFAULT_CHANGED: list[Callable[[], None]] = []  # who remembers results that depend on the default


def dtype(x: Any) -> DType:
    """Return the DType that x names: a DType, its name, a NumPy dtype or a Python number type.

    >>> import numpy as np, treadle as td
    >>> td.dtype(np.int32) is td.int32
    True
    """
    if x.__class__ is DType:
        return x
    try:
        found = _BY_NAME.get(x) if isinstance(x, str) else _BY_PYTHON.get(x)
        found = found or (None if x is None else _BY_NP.get(np.dtype(x).newbyteorder("=")))
    except TypeError:
        found = None
    if found is None:
        raise DTypeError(f"dtype: not a supported element type: {x!r}; supported: {', '.join(d.name for d in ALL)}")
    return found


def promote(a: DType, b: DType) -> DType:
    """Return the type that holds a result of a and b: PyTorch's promote_types, the array API's for mixed unsigned
    types."""
    return a if a is b else _promote(a, b)


@cache
def _promote(a: DType, b: DType) -> DType:
    if a.kind == "b" or b.kind == "b":
        return b if a.kind == "b" else a
    if a.kind == "f" or b.kind == "f":
        if a.kind != b.kind:
            return a if a.kind == "f" else b
        return float32 if a.itemsize == b.itemsize else max(a, b, key=lambda d: d.itemsize)
    if a.kind == b.kind:
        return max(a, b, key=lambda d: d.itemsize)
    signed, unsigned = (a, b) if a.kind == "i" else (b, a)
    if signed.itemsize > unsigned.itemsize:
        return signed
    if unsigned is uint64:
        raise DTypeError(f"promotion: no integer type holds both {a} and {b}; cast one of them first")
    return {1: int16, 2: int32, 4: int64}[unsigned.itemsize]


CATEGORY = {"b": 0, "u": 1, "i": 1, "f": 2}


def result_type(dimensioned: list[DType], zero_dim: list[DType], numbers: list[type]) -> DType:
    """Return the dtype of an op over tensors with dimensions, 0-d tensors and Python numbers (PyTorch's three ranks).

    A lower rank only changes the result when it is of a higher category (bool < integer < float).
    """
    current: DType | None = None
    for rank in (dimensioned, zero_dim, [_number_dtype(n) for n in numbers]):
        if rank:
            best = rank[0]
            for d in rank[1:]:
                best = promote(best, d)
            if current is None or CATEGORY[best.kind] > CATEGORY[current.kind]:
                current = best
    if current is None:
        raise ArgumentError("result_type: no operands")
    return current


def _number_dtype(n: type) -> DType:
    return _Default.dtype if n is float else int64 if n is int else bool_


class finfo:
    """Machine limits of a floating-point type: bits, eps, max, min, tiny, smallest_normal, resolution.

    >>> import treadle as td
    >>> td.finfo(td.float32).eps == 2**-23
    True
    """

    def __init__(self, d: "DType | str | None" = None) -> None:
        d = _Default.dtype if d is None else dtype(d)
        if d.kind != "f":
            raise DTypeError(f"finfo: needs a floating-point type: {d}")
        limits: Any = ml_dtypes.finfo
        i = limits(d.np)
        self.dtype, self.bits = d, d.itemsize * 8
        self.eps, self.max, self.min = float(i.eps), float(i.max), float(i.min)
        self.tiny = self.smallest_normal = float(i.tiny)
        self.resolution = float(i.resolution)

    def __repr__(self) -> str:
        return f"finfo(dtype={self.dtype.name}, eps={self.eps}, max={self.max}, min={self.min}, tiny={self.tiny})"


class iinfo:
    """Limits of an integer type: bits, max, min.

    >>> import treadle as td
    >>> td.iinfo(td.int8).max
    127
    """

    def __init__(self, d: "DType | str") -> None:
        d = dtype(d)
        if d.kind not in "iu":
            raise DTypeError(f"iinfo: needs an integer type: {d}")
        i = np.iinfo(d.np)
        self.dtype, self.bits, self.max, self.min = d, d.itemsize * 8, int(i.max), int(i.min)

    def __repr__(self) -> str:
        return f"iinfo(dtype={self.dtype.name}, max={self.max}, min={self.min})"
