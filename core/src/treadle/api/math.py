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


def add(a: Any, b: Any, *, alpha: Any = 1) -> Tensor:
    """Return a + alpha * b.

    >>> import treadle as td
    >>> td.add(td.ones(2), 2.0)
    tensor([3., 3.])
    """
    return add_op(a, b if alpha == 1 else mul_op(b, alpha))


def sub(a: Any, b: Any, *, alpha: Any = 1) -> Tensor:
    """Return a - alpha * b.

    >>> import treadle as td
    >>> td.sub(td.ones(2), 2.0)
    tensor([-1., -1.])
    """
    return sub_op(a, b if alpha == 1 else mul_op(b, alpha))


mul = multiply = mul_op
subtract = sub


def div(a: Any, b: Any, *, rounding_mode: str | None = None) -> Tensor:
    """Return a / b: true division, or rounded toward zero ("trunc") or down ("floor").

    >>> import treadle as td
    >>> td.div(td.tensor([7, -7]), 2, rounding_mode="floor")
    tensor([ 3, -4])
    """
    if rounding_mode is None:
        return true_divide(a, b)
    if rounding_mode == "floor":
        return floor_divide(a, b)
    if rounding_mode != "trunc":
        raise ArgumentError(f"div: rounding_mode must be None, 'trunc' or 'floor': {rounding_mode!r}")
    return trunc(FN["div"](a, b))


divide = div


def trunc(x: Tensor) -> Tensor:
    """Round toward zero.

    >>> import treadle as td
    >>> td.trunc(td.tensor([1.7, -1.7]))
    tensor([ 1., -1.])
    """
    return where_op(x < 0, -floor(-x), floor(x)) if x.dtype.kind == "f" else floor(x)


def remainder(a: Any, b: Any) -> Tensor:
    """Return the remainder with the sign of the divisor, as Python's %.

    >>> import treadle as td
    >>> td.remainder(td.tensor([5, -5]), 3)
    tensor([2, 1])
    """
    r = fmod(a, b)
    return where_op((r != 0) & ((r < 0) != (b < 0)), r + b, r)


def floor_divide(a: Any, b: Any) -> Tensor:
    """Return a / b rounded down, as Python's //.

    >>> import treadle as td
    >>> td.floor_divide(td.tensor([7.0, -7.0]), 2)
    tensor([ 3., -4.])
    """
    r = fmod(a, b)
    below = (r != 0) & ((r < 0) != (b < 0))  # the quotient is negative and was cut toward zero
    q = FN["div"](sub_op(a, r), b)
    if q.dtype.kind != "f":
        return where_op(below, q - 1, q)  # type: ignore[no-any-return]
    q = FN["round"](q)
    true = true_divide(a, b)
    return where_op(
        eq(b, 0) if isinstance(b, Tensor) else b == 0, true, where_op(below, q - 1, where_op(q == 0, true * 0, q))
    )  # type: ignore[no-any-return]


def pow(x: Any, exponent: Any) -> Tensor:
    """Return x to a power.

    >>> import treadle as td
    >>> td.pow(td.tensor([2.0, 3.0]), 2)
    tensor([4., 9.])
    """
    if exponent.__class__ in (int, float) and isinstance(x, Tensor) and x.dtype.kind == "f":
        if exponent == 2:
            return square(x)
        if exponent == 0.5:
            return sqrt(x)
        if exponent == 1:
            return mul_op(x, 1)
    if exponent.__class__ is int and exponent < 0 and isinstance(x, Tensor) and x.dtype.kind in "iu":
        raise ArgumentError("pow: integers to negative integer powers are not integers; cast to a float type")
    return pow_op(x, exponent)


def round(x: Tensor, *, decimals: int = 0) -> Tensor:
    """Round half to even, at a number of decimals.

    >>> import treadle as td
    >>> td.round(td.tensor([0.5, 1.5]))
    tensor([0., 2.])
    """
    return FN["round"](x) if not decimals else FN["round"](x * 10.0**decimals) / 10.0**decimals


def ceil(x: Tensor) -> Tensor:
    """Round up.

    >>> import treadle as td
    >>> td.ceil(td.tensor([0.2]))
    tensor([1.])
    """
    return -floor(-x) if x.dtype.kind == "f" else floor(x)


def frac(x: Tensor) -> Tensor:
    """Return the part after the decimal point, with x's sign."""
    return x - trunc(x)


def clamp(x: Tensor, min: Any = None, max: Any = None) -> Tensor:
    """Limit values to [min, max]; either may be left out.

    >>> import treadle as td
    >>> td.clamp(td.tensor([-2.0, 0.5, 2.0]), -1, 1)
    tensor([-1.0000,  0.5000,  1.0000])
    """
    if min is None and max is None:
        raise ArgumentError("clamp: give min, max or both")
    if x.dtype.kind == "b":
        x = x.to(dtypes.int64)
    if x.dtype.kind == "f":
        low, high = -_math.inf, _math.inf
    else:
        info = dtypes.iinfo(x.dtype)
        low, high = info.min, info.max
    return FN["clamp"](x, low if min is None else min, high if max is None else max)


clip = clamp


def clamp_min(x: Tensor, min: Any) -> Tensor:
    """Limit values from below."""
    return clamp(x, min=min)


def clamp_max(x: Tensor, max: Any) -> Tensor:
    """Limit values from above."""
    return clamp(x, max=max)


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


def logical_not(x: Tensor) -> Tensor:
    """Return not x, elementwise.

    >>> import treadle as td
    >>> td.logical_not(td.tensor([0, 2]))
    tensor([ True, False])
    """
    return eq(x, 0) if x.dtype.kind != "b" else bitwise_not(x)


def _truth(x: Any) -> Any:
    return x.to(dtypes.bool_) if isinstance(x, Tensor) else bool(x)


def logical_and(a: Any, b: Any) -> Tensor:
    """Return a and b, elementwise."""
    return bitwise_and(_truth(a), _truth(b))


def logical_or(a: Any, b: Any) -> Tensor:
    """Return a or b, elementwise."""
    return bitwise_or(_truth(a), _truth(b))


def logical_xor(a: Any, b: Any) -> Tensor:
    """Return whether exactly one of a and b holds, elementwise."""
    return bitwise_xor(_truth(a), _truth(b))


def isnan(x: Tensor) -> Tensor:
    """Return where x is not a number.

    >>> import treadle as td
    >>> td.isnan(td.tensor([1.0, float("nan")]))
    tensor([False,  True])
    """
    return ne(x, x)


def isinf(x: Tensor) -> Tensor:
    """Return where x is infinite."""
    return eq(abs(x), _math.inf) if x.dtype.kind == "f" else ne(x, x)


def isfinite(x: Tensor) -> Tensor:
    """Return where x is neither infinite nor NaN."""
    return lt(abs(x), _math.inf) if x.dtype.kind == "f" else eq(x, x)


def signbit(x: Tensor) -> Tensor:
    """Return where x is negative (-0.0 included)."""
    if x.dtype.kind != "f":
        return lt(x, 0)
    word = {2: dtypes.int16, 4: dtypes.int32, 8: dtypes.int64}[x.dtype.itemsize]
    return lt(FN["bitcast"](x, word), 0)


def _real(x: Tensor) -> Tensor:
    """Integers and bools in the default float type."""
    return x if x.dtype.kind == "f" else x.to(dtypes.get_default_dtype())  # type: ignore[no-any-return]


def copysign(a: Tensor, b: Any) -> Tensor:
    """Return |a| with the sign of b."""
    size = abs(_real(a))
    negative = signbit(b) if isinstance(b, Tensor) else signbit(size.new_full((), float(b)))
    return where_op(negative, -size, size)


def log2(x: Tensor) -> Tensor:
    """Return the base-2 logarithm."""
    return log(x) * (1 / _math.log(2.0))


def log10(x: Tensor) -> Tensor:
    """Return the base-10 logarithm."""
    return log(x) / _math.log(10.0)


def exp2(x: Tensor) -> Tensor:
    """Return 2 to the power x."""
    return pow_op(2.0, x)


def tan(x: Tensor) -> Tensor:
    """Return the tangent."""
    return sin(x) / cos(x)


def asin(x: Tensor) -> Tensor:
    """Return the inverse sine."""
    x = _real(x)
    return atan2(x, sqrt(1 - x) * sqrt(x + 1))  # two roots: the slope at 1 is infinite, not NaN


def acos(x: Tensor) -> Tensor:
    """Return the inverse cosine."""
    x = _real(x)
    return atan2(sqrt(1 - x) * sqrt(x + 1), x)


def atan(x: Tensor) -> Tensor:
    """Return the inverse tangent."""
    return atan2(x, 1.0)


def sinh(x: Tensor) -> Tensor:
    """Return the hyperbolic sine."""
    x = _real(x)
    return (expm1(x) - expm1(-x)) * 0.5


def cosh(x: Tensor) -> Tensor:
    """Return the hyperbolic cosine."""
    x = _real(x)
    return (exp(x) + exp(-x)) * 0.5


def _steep(x: Tensor) -> float:
    """From here on sqrt(x*x + 1) is x in x's precision (and x*x may overflow)."""
    return dtypes.finfo(x.dtype).eps ** -0.5


def asinh(x: Tensor) -> Tensor:
    """Return the inverse hyperbolic sine."""
    x = _real(x)
    a, steep = abs(x), _steep(x)
    near = clamp(x, -steep, steep)
    root = sqrt(near * near + 1)
    flat = near + near.sign() * (near * near / (root + 1))  # near + root - 1 for positive ones, without cancellation
    return where_op(
        a > steep, sign(x) * (log(maximum(a, steep)) + _math.log(2.0)), where_op(x < 0, -log1p(-flat), log1p(flat))
    )


def acosh(x: Tensor) -> Tensor:
    """Return the inverse hyperbolic cosine."""
    x = _real(x)
    above, steep = x - 1, _steep(x)
    near = minimum(above, steep)
    return where_op(above > steep, log(x) + _math.log(2.0), log1p(near + sqrt(near) * sqrt(near + 2)))


def atanh(x: Tensor) -> Tensor:
    """Return the inverse hyperbolic tangent."""
    x = _real(x)
    return (log1p(x) - log1p(-x)) * 0.5


def lerp(a: Tensor, b: Tensor, weight: Any) -> Tensor:
    """Return a + weight * (b - a)."""
    return add_op(a, mul_op(sub_op(b, a), weight))


def addcmul(x: Tensor, a: Tensor, b: Tensor, *, value: float = 1) -> Tensor:
    """Return x + value * a * b."""
    return add_op(x, mul_op(mul_op(a, b), value))


def addcdiv(x: Tensor, a: Tensor, b: Tensor, *, value: float = 1) -> Tensor:
    """Return x + value * a / b."""
    return add_op(x, mul_op(true_divide(a, b), value))


def nan_to_num(x: Tensor, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None) -> Tensor:
    """Replace NaN and infinities by finite numbers."""
    if x.dtype.kind != "f":
        return x.clone()  # type: ignore[no-any-return]
    info = dtypes.finfo(x.dtype)
    x = where_op(isnan(x), nan, x)
    x = where_op(eq(x, _math.inf), info.max if posinf is None else posinf, x)
    return where_op(eq(x, -_math.inf), info.min if neginf is None else neginf, x)


def masked_fill(x: Tensor, mask: Tensor, value: Any) -> Tensor:
    """Return x with value where mask holds.

    >>> import treadle as td
    >>> td.masked_fill(td.ones(2), td.tensor([True, False]), 0.0)
    tensor([0., 1.])
    """
    return where_op(
        mask, x.new_tensor(value) if x.dtype.kind != "f" and not isinstance(value, Tensor) else value, x
    ).to(x.dtype)  # type: ignore[no-any-return]


def isclose(a: Tensor, b: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Tensor:
    """Return where |a - b| <= atol + rtol * |b|."""
    b = b if isinstance(b, Tensor) else a.new_full((), b)
    if a.dtype.kind != "f":
        a, b = a.to(dtypes.float64), b.to(dtypes.float64)
    close = eq(a, b) | (le(abs(a - b), abs(b) * rtol + atol) & isfinite(a) & isfinite(b))
    return close | (isnan(a) & isnan(b)) if equal_nan else close


def allclose(a: Tensor, b: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> bool:
    """Return whether all elements are close.

    >>> import treadle as td
    >>> td.allclose(td.ones(2), td.ones(2) + 1e-9)
    True
    """
    return bool(isclose(a, b, rtol, atol, equal_nan).all())


def equal(a: Tensor, b: Tensor) -> bool:
    """Return whether shapes and all elements are equal.

    >>> import treadle as td
    >>> td.equal(td.ones(2), td.ones(2))
    True
    """
    return a.shape == b.shape and bool(eq(a, b).all())


def softmax(x: Tensor, dim: int, dtype: Any = None) -> Tensor:
    """Return exp(x) / sum(exp(x)) along a dimension.

    >>> import treadle as td
    >>> td.softmax(td.zeros(2), 0)
    tensor([0.5000, 0.5000])
    """
    x = x if dtype is None else x.to(dtype)
    return FN["softmax"](x, _axis("softmax", dim, x))


def log_softmax(x: Tensor, dim: int, dtype: Any = None) -> Tensor:
    """Return the logarithm of softmax along a dimension."""
    x = x if dtype is None else x.to(dtype)
    return FN["log_softmax"](x, _axis("log_softmax", dim, x))


def _axis(op: str, dim: int, x: Tensor) -> int:
    if x.ndim == 0:
        raise ArgumentError(f"{op}: a 0-d tensor has no dimension to work along")
    return axis_of(op, dim, x.ndim)


def silu(x: Tensor) -> Tensor:
    """Return x * sigmoid(x)."""
    return FN["silu"](x)


def floor_(x: Tensor) -> Tensor:
    return x.copy_(floor(x))


FUNCTIONS = """abs absolute neg negative sign floor sqrt exp log expm1 log1p sin cos tanh erf maximum minimum atan2
    arctan2 bitwise_and bitwise_or bitwise_xor bitwise_not bitwise_left_shift bitwise_right_shift eq ne lt le gt ge
    relu sigmoid reciprocal rsqrt square true_divide fmod add sub mul multiply subtract div divide trunc remainder
    floor_divide pow round ceil frac clamp clip clamp_min clamp_max where logical_not logical_and logical_or
    logical_xor isnan isinf isfinite signbit copysign log2 log10 exp2 tan asin acos atan sinh cosh asinh acosh atanh
    lerp addcmul addcdiv nan_to_num masked_fill isclose allclose equal softmax log_softmax""".split()
__all__ = FUNCTIONS  # noqa: PLE0605
METHODS: dict[str, Any] = {n: globals()[n] for n in FUNCTIONS if n != "where"} | {"where": _tensor_where}
