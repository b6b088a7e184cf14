"""Descriptions of operands, so that one declaration yields test cases for every dtype, device and layout."""

from typing import Any, NamedTuple

import numpy as np

from treadle.dtypes import DType
from treadle.errors import DTypeError, ShapeError
from treadle.op import ELEMENTWISE, ErrorCase, Sample


class Arg(NamedTuple):
    """A tensor operand: its shape and what values it holds.

    kind: "main" takes the dtype under test (normal floats, small integers), "positive" the same above zero, "unit"
    within (-1, 1), "float32"/"int64"/"uint32"/"bool" are of that fixed type. low and high bound integers.
    """

    shape: tuple[int, ...]
    kind: str = "main"
    low: int = -9
    high: int = 9

    def make(self, rng: np.random.Generator, dtype: DType) -> Any:
        if self.kind == "bool" or (self.kind == "main" and dtype.kind == "b"):
            return rng.integers(0, 2, self.shape).astype(bool)
        if self.kind in ("int64", "int32", "uint32"):
            return rng.integers(self.low, self.high, self.shape).astype(self.kind)
        if dtype.kind in "iu":
            low = max(self.low, 1 if self.kind == "positive" else 0 if dtype.kind == "u" else self.low)
            return rng.integers(low, max(self.high, low + 1), self.shape).astype(dtype.np)
        x = rng.uniform(-0.95, 0.95, self.shape) if self.kind == "unit" else rng.standard_normal(self.shape)
        return np.asarray(np.abs(x) + 0.1 if self.kind == "positive" else x).astype(dtype.np)


def t(*shape: int, kind: str = "main") -> Arg:
    return Arg(shape, kind)


def ints(*shape: int, low: int = 0, high: int = 9) -> Arg:
    return Arg(shape, "int64", low, high)


def bools(*shape: int) -> Arg:
    return Arg(shape, "bool")


def state() -> Arg:
    return Arg((4,), "uint32", 0, 2**31)


def s(*args: Any, **attrs: Any) -> Sample:
    """One sample: tuples stand for tensors of the dtype under test, Args for others, numbers and None for themselves;
    lists hold such."""
    return Sample(tuple(_described(a) for a in args), attrs)


def raises(error: type[Exception], match: str, *args: Any, **attrs: Any) -> ErrorCase:
    """An error case: the call of one sample raises `error` with a text in which `match` is found."""
    return ErrorCase(s(*args, **attrs), error, match)


def _described(a: Any) -> Any:
    if a.__class__ is list:
        return [_described(x) for x in a]
    return Arg(a) if a.__class__ is tuple else a


UNARY_SHAPES = ((), (1,), (7,), (4, 5), (3, 1, 6), (0, 3), (2, 3, 1, 2, 1, 2), (67, 33))
BINARY_SHAPES = (
    ((), ()), ((1,), (1,)), ((7,), (7,)), ((4, 5), (4, 5)), ((4, 5), (5,)), ((4, 1), (1, 5)), ((3, 1, 6), (2, 1)),
    ((0, 3), (3,)), ((), (2, 3)), ((2, 3, 1, 2, 1, 2), (1, 2, 2, 1, 2)), ((67, 33), (67, 33)),
)  # fmt: skip


def elementwise_samples(rank: int) -> list[Sample]:
    """Samples of an elementwise op of `rank` operands: every shape class, broadcasting, and Python numbers."""
    if rank == 1:
        return [s(shape) for shape in UNARY_SHAPES]
    if rank == 2:
        return [s(a, b) for a, b in BINARY_SHAPES] + [s((3, 4), 2), s(2, (3, 4))]
    return [s(*([shape] * rank)) for shape in UNARY_SHAPES] + [s((4, 5), *([(5,)] * (rank - 1)))]


def reduction_samples() -> list[Sample]:
    shapes = (((7,), (0,)), ((4, 5), (0,)), ((4, 5), (1,)), ((4, 5), (0, 1)), ((2, 3, 4), (1,)), ((2, 3, 4), (0, 2)),
        ((1,), (0,)))
    more = (((37, 65), (1,)), ((300, 3), (0,)), ((2, 3, 1, 2, 1, 2), (1, 3, 5)), ((3, 0), (0,)))
    return [s(shape, axes=axes, keepdims=k) for shape, axes in shapes + more for k in (False, True)]


def default_samples(op: Any) -> Any:
    """The samples of an op: its own, or those of every elementwise op of its rank."""
    return op.samples or elementwise_samples(len(op.inputs))


def default_errors(op: Any) -> Any:
    """The error cases of an op: its own, or what operand types and broadcasting refuse in ops of its kind."""
    if op.errors:
        return op.errors
    if op.tier == "view":
        return [ErrorCase(Sample((3.0,), op.samples[0].attrs), DTypeError, "must be a tensor")]
    if op.category not in ELEMENTWISE:
        return ()
    if len(op.inputs) == 1:
        return [raises(DTypeError, "must be a tensor or a number", "three")]
    kinds = ["bool" if i.name == "c" else "main" for i in op.inputs]
    shapes = [(3,)] * (len(kinds) - 1) + [(4,)]
    return [raises(ShapeError, "do not broadcast", *[Arg(shape, k) for shape, k in zip(shapes, kinds, strict=True)])]
