"""Elementwise functions under PyTorch's names. Where an op means the same, it is that very function."""

import math as _math
from typing import Any

from treadle import dtypes
from treadle._tensor import Tensor
from treadle.errors import ArgumentError, DTypeError
from treadle.op import CATALOGUE as OPS
from treadle.op import FN
from treadle.shapes import axis as axis_of

add_op, sub_op, mul_op = OPS["add"].fn, OPS["sub"].fn, OPS["mul"].fn
neg, abs, sign, floor, sqrt, exp, log, expm1, log1p, sin, cos, tanh, erf = (
    OPS[n].fn for n in ("neg", "abs", "sign", "floor", "sqrt", "exp", "log", "expm1", "log1p", "sin", "cos", "tanh",
    "erf")
)  # fmt: skip
maximum, minimum, atan2, where_op, bitwise_and, bitwise_or, bitwise_xor = (
    OPS[n].fn for n in ("maximum", "minimum", "atan2", "where", "bit_and", "bit_or", "bit_xor")
)  # fmt: skip
bitwise_not, bitwise_left_shift, bitwise_right_shift = OPS["bit_not"].fn, OPS["shl"].fn, OPS["shr"].fn
eq, ne, lt, le, gt, ge = (OPS[n].fn for n in ("eq", "ne", "lt", "le", "gt", "ge"))
relu, sigmoid, reciprocal, rsqrt, square, true_divide, fmod, pow_op = (
    OPS[n].fn for n in ("relu", "sigmoid", "reciprocal", "rsqrt", "square", "true_div", "rem", "pow")
)  # fmt: skip
absolute, negative, arctan2 = abs, neg, atan2


def add(input: Any, other: Any, *, alpha: Any = 1) -> Tensor:
    """Return input + alpha * other.

    >>> import treadle as td
    >>> td.add(td.ones(2), 2.0)
    tensor([3., 3.])
    """
    return add_op(input, other if alpha == 1 else mul_op(other, alpha))


def sub(input: Any, other: Any, *, alpha: Any = 1) -> Tensor:
    """Return input - alpha * other.

    >>> import treadle as td
    >>> td.sub(td.ones(2), 2.0)
    tensor([-1., -1.])
    """
    return sub_op(input, other if alpha == 1 else mul_op(other, alpha))


mul = multiply = mul_op
subtract = sub


def div(input: Any, other: Any, *, rounding_mode: str | None = None) -> Tensor:
    """Return input / other: true division, or rounded toward zero ("trunc") or down ("floor").

    >>> import treadle as td
    >>> td.div(td.tensor([7, -7]), 2, rounding_mode="floor")
    tensor([ 3, -4])
    """
    if rounding_mode is None:
        return true_divide(input, other)
    if rounding_mode == "floor":
        return floor_divide(input, other)
    if rounding_mode != "trunc":
        raise ArgumentError(f"div: rounding_mode must be None, 'trunc' or 'floor': {rounding_mode!r}")
    return trunc(FN["div"](input, other))


divide = div


def trunc(input: Tensor) -> Tensor:
    """Round toward zero.

    >>> import treadle as td
    >>> td.trunc(td.tensor([1.7, -1.7]))
    tensor([ 1., -1.])
    """
    return where_op(input < 0, -floor(-input), floor(input)) if input.dtype.kind == "f" else floor(input)


def remainder(input: Any, other: Any) -> Tensor:
    """Return the remainder with the sign of the divisor, as Python's %.

    >>> import treadle as td
    >>> td.remainder(td.tensor([5, -5]), 3)
    tensor([2, 1])
    """
    r = fmod(input, other)
    return where_op((r != 0) & ((r < 0) != (other < 0)), r + other, r)


def floor_divide(input: Any, other: Any) -> Tensor:
    """Return input / other rounded down, as Python's //.

    >>> import treadle as td
    >>> td.floor_divide(td.tensor([7.0, -7.0]), 2)
    tensor([ 3., -4.])
    """
    r = fmod(input, other)
    below = (r != 0) & ((r < 0) != (other < 0))  # the quotient is negative and was cut toward zero
    q = FN["div"](sub_op(input, r), other)
    if q.dtype.kind != "f":
        return where_op(below, q - 1, q)  # type: ignore[no-any-return]
    q = FN["round"](q)
    true = true_divide(input, other)
    return where_op(
        eq(other, 0) if isinstance(other, Tensor) else other == 0,
        true,
        where_op(below, q - 1, where_op(q == 0, true * 0, q)),
    )  # type: ignore[no-any-return]


def pow(input: Any, exponent: Any) -> Tensor:
    """Return input to a power.

    >>> import treadle as td
    >>> td.pow(td.tensor([2.0, 3.0]), 2)
    tensor([4., 9.])
    """
    if exponent.__class__ in (int, float) and isinstance(input, Tensor) and input.dtype.kind == "f":
        if exponent == 2:
            return square(input)
        if exponent == 0.5:
            return sqrt(input)
        if exponent == 1:
            return mul_op(input, 1)
    if exponent.__class__ is int and exponent < 0 and isinstance(input, Tensor) and input.dtype.kind in "iu":
        raise ArgumentError("pow: integers to negative integer powers are not integers; cast to a float type")
    return pow_op(input, exponent)


def round(input: Tensor, *, decimals: int = 0) -> Tensor:
    """Round half to even, at a number of decimals.

    >>> import treadle as td
    >>> td.round(td.tensor([0.5, 1.5]))
    tensor([0., 2.])
    """
    return FN["round"](input) if not decimals else FN["round"](input * 10.0**decimals) / 10.0**decimals


def ceil(input: Tensor) -> Tensor:
    """Round up.

    >>> import treadle as td
    >>> td.ceil(td.tensor([0.2]))
    tensor([1.])
    """
    return -floor(-input) if input.dtype.kind == "f" else floor(input)


def frac(input: Tensor) -> Tensor:
    """Return the part after the decimal point, with the input's sign."""
    return input - trunc(input)


def clamp(input: Tensor, min: Any = None, max: Any = None) -> Tensor:
    """Limit values to [min, max]; either may be left out.

    >>> import treadle as td
    >>> td.clamp(td.tensor([-2.0, 0.5, 2.0]), -1, 1)
    tensor([-1.0000,  0.5000,  1.0000])
    """
    if min is None and max is None:
        raise ArgumentError("clamp: give min, max or both")
    if input.dtype.kind == "b":
        of_truth = all(isinstance(x, Tensor) and x.dtype.kind == "b" for x in (min, max) if x is not None)
        limited = clamp(input.to(dtypes.int64), min, max)
        return limited.to(dtypes.bool_) if of_truth else limited
    if input.dtype.kind == "f":
        low, high = -_math.inf, _math.inf
    else:
        info = dtypes.iinfo(input.dtype)
        low, high = info.min, info.max
    return FN["clamp"](input, low if min is None else min, high if max is None else max)


clip = clamp


def clamp_min(input: Tensor, min: Any) -> Tensor:
    """Limit values from below."""
    return clamp(input, min=min)


def clamp_max(input: Tensor, max: Any) -> Tensor:
    """Limit values from above."""
    return clamp(input, max=max)


def where(condition: Tensor, input: Any = None, other: Any = None) -> Any:
    """Select from input where condition, else from other; with the condition alone, the indices where it holds.

    >>> import treadle as td
    >>> td.where(td.tensor([True, False]), td.ones(2), 0.0)
    tensor([1., 0.])
    """
    if input is None and other is None:
        found = FN["nonzero"](condition)
        return tuple(found[:, d] for d in range(condition.ndim))
    if condition.dtype is not dtypes.bool_:
        raise DTypeError(f"where: the condition must be bool: {condition.dtype.name}")
    if not isinstance(input, Tensor) and not isinstance(other, Tensor):
        kind = dtypes.get_default_dtype() if float in (type(input), type(other)) else None
        input = condition.new_tensor(input, dtype=kind or dtypes.dtype(type(input)))
    return where_op(condition, input, other)


def _tensor_where(x: Tensor, condition: Tensor, other: Any) -> Tensor:
    return where_op(condition, x, other)


def logical_not(input: Tensor) -> Tensor:
    """Return not input, elementwise.

    >>> import treadle as td
    >>> td.logical_not(td.tensor([0, 2]))
    tensor([ True, False])
    """
    return eq(input, 0) if input.dtype.kind != "b" else bitwise_not(input)


def _truth(x: Any) -> Any:
    return x.to(dtypes.bool_) if isinstance(x, Tensor) else bool(x)


def logical_and(input: Any, other: Any) -> Tensor:
    """Return input and other, elementwise."""
    return bitwise_and(_truth(input), _truth(other))


def logical_or(input: Any, other: Any) -> Tensor:
    """Return input or other, elementwise."""
    return bitwise_or(_truth(input), _truth(other))


def logical_xor(input: Any, other: Any) -> Tensor:
    """Return whether exactly one of input and other holds, elementwise."""
    return bitwise_xor(_truth(input), _truth(other))


def isnan(input: Tensor) -> Tensor:
    """Return where input is not a number.

    >>> import treadle as td
    >>> td.isnan(td.tensor([1.0, float("nan")]))
    tensor([False,  True])
    """
    return ne(input, input)


def isinf(input: Tensor) -> Tensor:
    """Return where input is infinite."""
    return eq(abs(input), _math.inf) if input.dtype.kind == "f" else ne(input, input)


def isfinite(input: Tensor) -> Tensor:
    """Return where input is neither infinite nor NaN."""
    return lt(abs(input), _math.inf) if input.dtype.kind == "f" else eq(input, input)


def signbit(input: Tensor) -> Tensor:
    """Return where input is negative (-0.0 included)."""
    if input.dtype.kind != "f":
        return lt(input, 0)
    word = {2: dtypes.int16, 4: dtypes.int32, 8: dtypes.int64}[input.dtype.itemsize]
    return lt(FN["bitcast"](input, word), 0)


def _real(x: Tensor) -> Tensor:
    """Integers and bools in the default float type."""
    return x if x.dtype.kind == "f" else x.to(dtypes.get_default_dtype())  # type: ignore[no-any-return]


def copysign(input: Tensor, other: Any) -> Tensor:
    """Return |input| with the sign of b."""
    size = abs(_real(input))
    negative = signbit(other) if isinstance(other, Tensor) else signbit(size.new_full((), float(other)))
    return where_op(negative, -size, size)


def log2(input: Tensor) -> Tensor:
    """Return the base-2 logarithm."""
    return log(input) * (1 / _math.log(2.0))


def log10(input: Tensor) -> Tensor:
    """Return the base-10 logarithm."""
    return log(input) / _math.log(10.0)


def exp2(input: Tensor) -> Tensor:
    """Return 2 to the power of input."""
    return pow_op(2.0, input)


def tan(input: Tensor) -> Tensor:
    """Return the tangent."""
    return sin(input) / cos(input)


def asin(input: Tensor) -> Tensor:
    """Return the inverse sine."""
    input = _real(input)
    return atan2(input, sqrt(1 - input) * sqrt(input + 1))  # two roots: the slope at 1 is infinite, not NaN


def acos(input: Tensor) -> Tensor:
    """Return the inverse cosine."""
    input = _real(input)
    return atan2(sqrt(1 - input) * sqrt(input + 1), input)


def atan(input: Tensor) -> Tensor:
    """Return the inverse tangent."""
    return atan2(input, 1.0)


def sinh(input: Tensor) -> Tensor:
    """Return the hyperbolic sine."""
    input = _real(input)
    return (expm1(input) - expm1(-input)) * 0.5


def cosh(input: Tensor) -> Tensor:
    """Return the hyperbolic cosine."""
    input = _real(input)
    return (exp(input) + exp(-input)) * 0.5


def _steep(x: Tensor) -> float:
    """From here on sqrt(x*x + 1) is x in x's precision (and x*x may overflow)."""
    return dtypes.finfo(x.dtype).eps ** -0.5


def asinh(input: Tensor) -> Tensor:
    """Return the inverse hyperbolic sine."""
    input = _real(input)
    a, steep = abs(input), _steep(input)
    near = clamp(input, -steep, steep)
    root = sqrt(near * near + 1)
    flat = near + near.sign() * (near * near / (root + 1))  # near + root - 1 for positive ones, without cancellation
    return where_op(
        a > steep,
        sign(input) * (log(maximum(a, steep)) + _math.log(2.0)),
        where_op(input < 0, -log1p(-flat), log1p(flat)),
    )


def acosh(input: Tensor) -> Tensor:
    """Return the inverse hyperbolic cosine."""
    input = _real(input)
    above, steep = input - 1, _steep(input)
    near = minimum(above, steep)
    return where_op(above > steep, log(input) + _math.log(2.0), log1p(near + sqrt(near) * sqrt(near + 2)))


def atanh(input: Tensor) -> Tensor:
    """Return the inverse hyperbolic tangent."""
    input = _real(input)
    return (log1p(input) - log1p(-input)) * 0.5


def lerp(input: Tensor, end: Tensor, weight: Any) -> Tensor:
    """Return input + weight * (end - input)."""
    return add_op(input, mul_op(sub_op(end, input), weight))


def addcmul(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Tensor:
    """Return input + value * tensor1 * tensor2."""
    return add_op(input, mul_op(mul_op(tensor1, tensor2), value))


def addcdiv(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Tensor:
    """Return input + value * tensor1 / tensor2."""
    return add_op(input, mul_op(true_divide(tensor1, tensor2), value))


def nan_to_num(input: Tensor, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None) -> Tensor:
    """Replace NaN and infinities by finite numbers."""
    if input.dtype.kind != "f":
        return input.clone()  # type: ignore[no-any-return]
    info = dtypes.finfo(input.dtype)
    input = where_op(isnan(input), nan, input)
    input = where_op(eq(input, _math.inf), info.max if posinf is None else posinf, input)
    return where_op(eq(input, -_math.inf), info.min if neginf is None else neginf, input)


def masked_fill(input: Tensor, mask: Tensor, value: Any) -> Tensor:
    """Return input with value where mask holds.

    >>> import treadle as td
    >>> td.masked_fill(td.ones(2), td.tensor([True, False]), 0.0)
    tensor([0., 1.])
    """
    return where_op(
        mask, input.new_tensor(value) if input.dtype.kind != "f" and not isinstance(value, Tensor) else value, input
    ).to(input.dtype)  # type: ignore[no-any-return]


def isclose(input: Tensor, other: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Tensor:
    """Return where |input - other| <= atol + rtol * |other|."""
    if rtol < 0 or atol < 0:
        raise ArgumentError(f"isclose: rtol and atol must not be negative: {rtol}, {atol}")
    other = other if isinstance(other, Tensor) else input.new_full((), other)
    if input.dtype.kind != "f":
        input, other = input.to(dtypes.float64), other.to(dtypes.float64)
    close = eq(input, other) | (le(abs(input - other), abs(other) * rtol + atol) & isfinite(input) & isfinite(other))
    return close | (isnan(input) & isnan(other)) if equal_nan else close


def allclose(input: Tensor, other: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> bool:
    """Return whether all elements are close.

    >>> import treadle as td
    >>> td.allclose(td.ones(2), td.ones(2) + 1e-9)
    True
    """
    return bool(isclose(input, other, rtol, atol, equal_nan).all())


def equal(input: Tensor, other: Tensor) -> bool:
    """Return whether shapes and all elements are equal.

    >>> import treadle as td
    >>> td.equal(td.ones(2), td.ones(2))
    True
    """
    return input.shape == other.shape and bool(eq(input, other).all())


def softmax(input: Tensor, dim: Any = None, dtype: Any = None, *, axis: Any = None) -> Tensor:
    """Return exp(x) / sum(exp(x)) along a dimension.

    >>> import treadle as td
    >>> td.softmax(td.zeros(2), 0)
    tensor([0.5000, 0.5000])
    """
    return _along("softmax", input, dim if axis is None else axis, dtype)


def log_softmax(input: Tensor, dim: Any = None, dtype: Any = None, *, axis: Any = None) -> Tensor:
    """Return the logarithm of softmax along a dimension."""
    return _along("log_softmax", input, dim if axis is None else axis, dtype)


def _along(op: str, x: Tensor, dim: Any, dtype: Any) -> Tensor:
    x = x if dtype is None else x.to(dtype)
    d = axis_of(op, dim, x.sig.ndim)
    return FN[op](x, d) if x.sig.ndim else FN[op](x.reshape(1), d).reshape(())


def silu(input: Tensor) -> Tensor:
    """Return x * sigmoid(x)."""
    return FN["silu"](input)


def floor_(input: Tensor) -> Tensor:
    return input.copy_(floor(input))


FUNCTIONS = """abs absolute neg negative sign floor sqrt exp log expm1 log1p sin cos tanh erf maximum minimum atan2
    arctan2 bitwise_and bitwise_or bitwise_xor bitwise_not bitwise_left_shift bitwise_right_shift eq ne lt le gt ge
    relu sigmoid reciprocal rsqrt square true_divide fmod add sub mul multiply subtract div divide trunc remainder
    floor_divide pow round ceil frac clamp clip clamp_min clamp_max where logical_not logical_and logical_or
    logical_xor isnan isinf isfinite signbit copysign log2 log10 exp2 tan asin acos atan sinh cosh asinh acosh atanh
    lerp addcmul addcdiv nan_to_num masked_fill isclose allclose equal softmax log_softmax""".split()
__all__ = FUNCTIONS  # noqa: PLE0605
METHODS: dict[str, Any] = {n: globals()[n] for n in FUNCTIONS if n != "where"} | {"where": _tensor_where}
