"""Elementwise ops: arithmetic, comparison, selection, conversion, activations.

`c_expr` is one portable C expression over the operands' names; backends map its functions to their own. The gradient
stands on the line after the meaning.
"""

import math
from typing import Any

import numpy as np

from treadle.dtypes import ALL, FLOATS, INTS, DType
from treadle.errors import DTypeError, ShapeError
from treadle.op import EXACT, MIXED, Op, binary, boolean, elementwise, ulp, unary, unary_float
from treadle.ops.reduction import sum_to
from treadle.ops.samples import UNARY_SHAPES, Arg, bools, raises, s, t
from treadle.spec import Spec

NUMERIC = INTS | FLOATS
BITS = frozenset(ALL) - FLOATS
RSQRT_PI = 2 / math.sqrt(math.pi)


def _zero(g: Any) -> Any:
    return g.new_zeros(g.shape)  # also where g is infinite


def _erf(x: Any) -> Any:
    return np.vectorize(math.erf, otypes=[np.float64])(x)


def _erfc(x: Any) -> Any:
    return np.vectorize(math.erfc, otypes=[np.float64])(x)


def _wrap_pow(a: Any, b: Any) -> Any:
    if a.dtype.kind == "f":
        with np.errstate(all="ignore"):
            return np.power(a, b)
    safe = np.power(a, np.maximum(b, 0))
    odd = np.where(b % 2 == 0, 1, -1)
    return np.where(b >= 0, safe, np.where(a == 1, 1, np.where(a == -1, odd, 0)).astype(a.dtype))


def _trunc_div(a: Any, b: Any) -> Any:
    if a.dtype.kind == "f":
        return a / b
    if not np.all(b):
        raise ZeroDivisionError("div: integer division by zero")
    q = a // b
    return np.where((a % b != 0) & ((a < 0) != (b < 0)), q + 1, q).astype(a.dtype)


def _trunc_rem(a: Any, b: Any) -> Any:
    if a.dtype.kind != "f" and not np.all(b):
        raise ZeroDivisionError("rem: integer remainder by zero")
    return np.fmod(a, b)


def _shift(left: bool) -> Any:
    def shift(a: Any, b: Any) -> Any:
        bits = a.dtype.itemsize * 8
        inside = (b >= 0) & (b < bits)
        safe = np.where(inside, b, 0).astype(a.dtype)
        if left:
            return np.where(inside, np.left_shift(a, safe), 0).astype(a.dtype)
        return np.where(inside, np.right_shift(a, safe), np.where(a < 0, -1, 0).astype(a.dtype)).astype(a.dtype)

    return shift


def _extremum(f: Any, b_wins_tie: Any) -> Any:
    def extremum(a: Any, b: Any) -> Any:
        return np.where(a == b, np.where(b_wins_tie(a, b), b, a),
            f(a, b))  # -0 and +0 compare equal but are ordered here

    return extremum


# ---- unary kernels -------------------------------------------------------------------------------------------------
neg: Op = unary("neg", "-x", np.negative, {"x": lambda g: -g}, dtypes=NUMERIC, doc="Negate.")
abs_: Op = unary("abs", "abs(x)", np.abs, {"x": lambda g, x: g * sign(x)}, dtypes=NUMERIC, kinks=lambda x: x == 0,
    doc="Return magnitudes.")
sign: Op = unary("sign", "sign(x)", np.sign, {"x": _zero}, dtypes=NUMERIC, kinks=lambda x: x == 0,
    doc="Return -1, 0 or 1 by sign; NaN stays NaN.")
floor: Op = unary("floor", {"float": "floor(x)", "int": "x", "uint": "x"}, np.floor, {"x": _zero}, dtypes=NUMERIC,
    kinks=lambda x: x == np.round(x),
    doc="Round down.")
round_: Op = unary("round", {"float": "round(x)", "int": "x", "uint": "x"}, np.round, {"x": _zero}, dtypes=NUMERIC,
    kinks=lambda x: x * 2 == np.round(x * 2),
    doc="Round to the nearest integer, halves to even.")
sqrt: Op = unary_float("sqrt", "sqrt(x)", np.sqrt, {"x": lambda g, y: g / (y * 2.0)}, num=EXACT,
    doc="Return the square root; NaN below zero.")
exp: Op = unary_float("exp", "exp(x)", np.exp, {"x": lambda g, y: g * y}, doc="Return e to the power x.")
log: Op = unary_float("log", "log(x)", np.log, {"x": lambda g, x: g / x}, doc="Return the natural logarithm.")
expm1: Op = unary_float("expm1", "expm1(x)", np.expm1, {"x": lambda g, y: g * (y + 1.0)},
    doc="Return exp(x) - 1, exact near zero.")
log1p: Op = unary_float("log1p", "log1p(x)", np.log1p, {"x": lambda g, x: g / (x + 1.0)},
    doc="Return log(1 + x), exact near zero.")
sin: Op = unary_float("sin", "sin(x)", np.sin, {"x": lambda g, x: g * cos(x)}, doc="Return the sine of radians.")
cos: Op = unary_float("cos", "cos(x)", np.cos, {"x": lambda g, x: -g * sin(x)}, doc="Return the cosine of radians.")
tanh: Op = unary_float("tanh", "tanh(x)", np.tanh, {"x": lambda g, y: tanh_grad(g, y)},
    doc="Return the hyperbolic tangent.")
erf: Op = unary_float("erf", "erf(x)", _erf, {"x": lambda g, x: g * (RSQRT_PI * exp(-(x * x)))},
    doc="Return the error function.")
bit_not: Op = unary("bit_not", {"int": "~x", "uint": "~x", "bool": "!x"}, np.invert, {}, dtypes=BITS,
    doc="Invert all bits; of a bool, its truth.")

# ---- binary kernels ------------------------------------------------------------------------------------------------
add: Op = binary("add", {"float": "a + b", "int": "a + b", "uint": "a + b", "bool": "a | b"}, np.add,
    {"a": lambda g, shape_a: sum_to(g, shape_a), "b": lambda g, shape_b: sum_to(g, shape_b)}, doc="Add; of bools, or.")
sub: Op = binary("sub", "a - b", np.subtract,
    {"a": lambda g, shape_a: sum_to(g, shape_a), "b": lambda g, shape_b: sum_to(-g, shape_b)}, dtypes=NUMERIC,
    doc="Subtract b from a.")
mul: Op = binary("mul", {"float": "a * b", "int": "a * b", "uint": "a * b", "bool": "a & b"}, np.multiply,
    {"a": lambda g, b, shape_a: sum_to(g * b, shape_a), "b": lambda g, a, shape_b: sum_to(g * a, shape_b)},
    doc="Multiply; of bools, and.")
div: Op = binary("div", {"float": "a / b", "int": "trunc_div(a, b)", "uint": "trunc_div(a, b)"}, _trunc_div,
    {"a": lambda g, b, shape_a: sum_to(g / b, shape_a),
        "b": lambda g, a, b, shape_b: sum_to(-g * ((a / b) / b), shape_b)}, dtypes=NUMERIC,
    samples=[s((4, 5), t(5, kind="positive")), s(t(3, 1), t(1, 4, kind="positive")), s((), t(kind="positive")),
        s((0,), t(0))],
    doc="Divide: floats as IEEE 754, integers toward zero; an integer divisor of zero is an error.",
    errors=[raises(ShapeError, "do not broadcast", (3,), (4,)),
        raises(ZeroDivisionError, "zero", Arg((3,), "int32", 1), Arg((3,), "int32", 0, 1))])
rem: Op = binary("rem", {"float": "rem(a, b)", "int": "trunc_rem(a, b)", "uint": "trunc_rem(a, b)"}, _trunc_rem,
    {"a": lambda g, shape_a: sum_to(g, shape_a),
        "b": lambda g, a, b, y, shape_b: sum_to(-g * round_((a - y) / b), shape_b)},
    dtypes=NUMERIC,
    samples=[s((4, 5), t(5, kind="positive")), s(t(3, 1), t(1, 4, kind="positive")), s((), t(kind="positive")),
        s((0,), t(0))],
    doc="Return the remainder of division toward zero (C's fmod): it has the sign of a.",
    errors=[raises(ShapeError, "do not broadcast", (3,), (4,)),
        raises(ZeroDivisionError, "zero", Arg((3,), "int32", 1), Arg((3,), "int32", 0, 1))])
pow_: Op = binary("pow", "pow(a, b)", _wrap_pow,
    {"a": lambda g, a, b, shape_a: sum_to(_pow_base_grad(g, a, b), shape_a),
        "b": lambda g, a, y, shape_b: sum_to(_pow_exponent_grad(g, a, y), shape_b)},
    dtypes=NUMERIC, num=ulp(16), samples=[s(t(4, 5, kind="positive"), (5,)), s(t(7, kind="positive"), 2),
        s(t(3, kind="positive"), -1.5), s(t(kind="positive"), ())],
    doc="Raise a to the power b.")
maximum: Op = binary("maximum", {"float": "max(a, b)", "int": "max(a, b)", "uint": "max(a, b)", "bool": "a | b"},
    _extremum(np.maximum, lambda a, b: np.signbit(a)),
    {"a": lambda g, a, b, shape_a: sum_to(_tie(g, a, b, a > b), shape_a),
        "b": lambda g, a, b, shape_b: sum_to(_tie(g, a, b, b > a), shape_b)},
    kinks=lambda a, b: a == b, doc="Return the larger; NaN wins, +0 is larger than -0.")
minimum: Op = binary("minimum", {"float": "min(a, b)", "int": "min(a, b)", "uint": "min(a, b)", "bool": "a & b"},
    _extremum(np.minimum, lambda a, b: np.signbit(b)),
    {"a": lambda g, a, b, shape_a: sum_to(_tie(g, a, b, a < b), shape_a),
        "b": lambda g, a, b, shape_b: sum_to(_tie(g, a, b, b < a), shape_b)},
    kinks=lambda a, b: a == b, doc="Return the smaller; NaN wins, -0 is smaller than +0.")
atan2: Op = binary("atan2", "atan2(a, b)", np.arctan2,
    {"a": lambda g, a, b, shape_a: sum_to(g * _over_square(b, a, b, g), shape_a),
        "b": lambda g, a, b, shape_b: sum_to(-g * _over_square(a, a, b, g), shape_b)},
    dtypes=FLOATS, int_to_float=True, num=ulp(4), doc="Return the angle of the point (b, a), in radians.")
bit_and: Op = binary("bit_and", "a & b", np.bitwise_and, {}, dtypes=BITS, doc="And bit by bit.")
bit_or: Op = binary("bit_or", "a | b", np.bitwise_or, {}, dtypes=BITS, doc="Or bit by bit.")
bit_xor: Op = binary("bit_xor", "a ^ b", np.bitwise_xor, {}, dtypes=BITS, doc="Exclusive-or bit by bit.")
shl: Op = binary("shl", "shl(a, b)", _shift(True), {}, dtypes=INTS, doc="Shift left; by the width or more gives 0.")
shr: Op = binary("shr", "shr(a, b)", _shift(False), {}, dtypes=INTS,
    doc="Shift right, signed types with their sign; by the width or more gives 0 or -1.")
eq: Op = binary("eq", "a == b", np.equal, {}, spec=boolean, doc="Return where a equals b; NaN equals nothing.")
lt: Op = binary("lt", "a < b", np.less, {}, spec=boolean, doc="Return where a is below b.")
le: Op = binary("le", "a <= b", np.less_equal, {}, spec=boolean, doc="Return where a is at most b.")
where: Op = elementwise("where", "c a b", "select(c, a, b)", np.where,
    {"a": lambda g, c, shape_a: sum_to(where(c, g, 0.0), shape_a),
        "b": lambda g, c, shape_b: sum_to(where(c, 0.0, g), shape_b)},
    spec=lambda c, a, b: a, samples=[s(t(*a, kind="bool"), b, c) for a, b, c in
        (((), (), ()), ((4, 5), (4, 5), (4, 5)), ((4, 1), (5,), (4, 5)), ((7,), (7,), ()), ((0, 2), (0, 2), (2,)),
            ((67, 33),) * 3)],
    doc="Select from a where the condition c holds, else from b.",
    errors=[raises(ShapeError, "do not broadcast", bools(3), (4,), ()),
        raises(DTypeError, "condition must be bool", (3,), (3,), (3,))])


def _over_square(x: Any, a: Any, b: Any, g: Any) -> Any:
    """x / (a^2 + b^2) in the type of g: squares of integers would not fit theirs."""
    x, a, b = (v if v.__class__ in (int, float) or v.dtype is g.dtype else cast(v, g.dtype) for v in (x, a, b))
    return x / (a * a + b * b)


def _tie(g: Any, a: Any, b: Any, wins: Any) -> Any:
    return where(eq(a, b), g * 0.5, where(wins, g, 0.0))


def _pow_base_grad(g: Any, a: Any, b: Any) -> Any:
    if b.__class__ is int or b.__class__ is float:
        return _zero(g) if b == 0 else g * (pow_(a, b - 1) * b)
    return where(eq(b, 0), 0.0, g * (b * pow_(a, b - 1)))


def _pow_exponent_grad(g: Any, a: Any, y: Any) -> Any:
    if a.__class__ is int or a.__class__ is float:
        return g * (y * math.log(a)) if a > 0 else _zero(g)
    return where(eq(a, 0), 0.0, g * (y * log(a)))


# ---- conversion ----------------------------------------------------------------------------------------------------
def _cast(x: Any, dtype: DType) -> Any:
    if dtype.kind in "iu" and x.dtype.kind not in "biu":
        info = np.iinfo(dtype.np)
        x = np.nan_to_num(np.trunc(x.astype(np.float64)), nan=0.0, posinf=np.inf, neginf=-np.inf)
        with np.errstate(invalid="ignore"):
            y = np.where((x > info.min) & (x < info.max), x, 0).astype(dtype.np)
        return np.where(x >= info.max, info.max, np.where(x <= info.min, info.min, y)).astype(dtype.np)
    return (x != 0) if dtype.kind == "b" else x.astype(dtype.np)


def _bitcast_spec(x: Spec, dtype: DType) -> Spec:
    if dtype.itemsize != x.dtype.itemsize or dtype.kind == "b":
        raise DTypeError(
            f"bitcast: {x.dtype.name} has {x.dtype.itemsize} bytes an element, {dtype.name} "
            f"{dtype.itemsize}; bool cannot be a target"
        )
    return Spec(x.shape, dtype)


cast: Op = Op("cast", "x -> y", tier="kernel", category="cast", reference=_cast,
    spec=lambda x, dtype: Spec(x.shape, dtype), num=EXACT,
    vjp={"x": lambda g, dtype_x: cast(g, dtype_x)},
    samples=[s((4, 5), dtype=d) for d in ALL] + [s((), dtype=ALL[4]), s((0, 3), dtype=ALL[11])],
    doc="Convert elements: floats to integers toward zero and saturating (NaN gives 0), integers "
    "wrapping, anything to bool by comparing with 0.",
    errors=[raises(DTypeError, "tensor", 3.0, dtype=ALL[0])])
bitcast: Op = Op("bitcast", "x -> y", tier="kernel", category="bits", reference=lambda x, dtype: x.view(dtype.np),
    spec=_bitcast_spec, num=EXACT, vjp={},
    dtypes=frozenset(ALL) - {ALL[0]},
    samples=[s((4, 5), dtype=d) for d in ALL[1:]] + [s((), dtype=ALL[7]), s((0, 3), dtype=ALL[11])],
    doc="Reinterpret the bits of every element as another type of the same size.",
    errors=[raises(DTypeError, "bytes an element", (3,), dtype=ALL[12])])

# ---- composites: activations and conveniences ----------------------------------------------------------------------
COMPOSITE: dict[str, Any] = {"tier": "composite", "dtypes": FLOATS, "int_to_float": True}
GRADIENT: dict[str, Any] = {"tier": "composite", "dtypes": FLOATS, "num": MIXED,
    "samples": [s(shape, shape) for shape in UNARY_SHAPES]}
SQRT_HALF, RSQRT_2PI, GELU_K = math.sqrt(0.5), 1 / math.sqrt(2 * math.pi), math.sqrt(2 / math.pi)


def _relu(x: Any) -> Any:
    return where(x <= 0, 0, x)


def _gelu_inner(x: Any) -> Any:
    return tanh(GELU_K * (x + 0.044715 * (x * x * x)))


def _gelu_tanh_grad(g: Any, x: Any) -> Any:
    u = _gelu_inner(x)
    return g * (0.5 * (u + 1.0) + 0.5 * x * (1.0 - u * u) * (GELU_K + 3 * 0.044715 * GELU_K * (x * x)))


def _sigmoid_of(x: Any) -> Any:
    return 1.0 / (exp(-x) + 1.0)


tanh_grad: Op = elementwise("tanh_grad", "g y", "g * (1 - y * y)", None, decompose=lambda g, y: g * (1.0 - y * y),
    **GRADIENT,
    doc="Return the gradient of tanh from its result y.")
relu_grad: Op = elementwise("relu_grad", "g y", "select(y <= 0, 0, g)", None,
    {"g": lambda g_gx, y, shape_g: sum_to(relu_grad(g_gx, y), shape_g),
        "y": lambda g_gx, shape_y: sum_to(g_gx * 0, shape_y)},
    decompose=lambda g, y: where(y <= 0, 0.0, g), **GRADIENT | {"num": EXACT},
    doc="Return g where the result y of relu was positive, else 0.")
relu: Op = unary("relu", "select(x <= 0, 0, x)", lambda x: np.where(x <= 0, np.zeros_like(x), x),
    {"x": lambda g, y: relu_grad(g, y)}, decompose=_relu,
    kinks=lambda x: x == 0, tier="composite", dtypes=NUMERIC, doc="Return x where positive, else 0; NaN stays NaN.")
sigmoid_grad: Op = elementwise("sigmoid_grad", "g y", "g * y * (1 - y)", None, decompose=lambda g, y: g * y * (1.0 - y),
    **GRADIENT,
    doc="Return the gradient of sigmoid from its result y.")
sigmoid: Op = unary("sigmoid", "1 / (1 + exp(-x))", lambda x: 1 / (1 + np.exp(-x)),
    {"x": lambda g, y: sigmoid_grad(g, y)}, decompose=_sigmoid_of, **COMPOSITE | {"num": ulp(4)},
    doc="Return 1 / (1 + exp(-x)).")
silu_grad: Op = elementwise("silu_grad", "g x", "g / (1 + exp(-x)) * (1 + x * (1 - 1 / (1 + exp(-x))))", None,
    decompose=lambda g, x: g * _sigmoid_of(x) * (1.0 + x * (1.0 - _sigmoid_of(x))), **GRADIENT,
    doc="Return the gradient of silu.")
silu: Op = unary("silu", "x / (1 + exp(-x))", lambda x: x / (1 + np.exp(-x)), {"x": lambda g, x: silu_grad(g, x)},
    decompose=lambda x: x / (exp(-x) + 1.0),
    **COMPOSITE | {"num": ulp(4)},
    doc="Return x * sigmoid(x) (Elfwing et al. 2018).")
gelu_grad: Op = elementwise("gelu_grad", "g x",
    "g * (0.5 * (1 + erf(x * 0.70710678118654752)) + x * (0.39894228040143268 * exp(-0.5 * x * x)))", None,
    decompose=lambda g, x: g * (0.5 * (erf(x * SQRT_HALF) + 1.0) + x * (exp(x * x * -0.5) * RSQRT_2PI)), **GRADIENT,
    doc="Return the gradient of gelu.")
gelu: Op = unary("gelu", "0.5 * x * (1 + erf(x * 0.70710678118654752))", lambda x: 0.5 * x * _erfc(-x * SQRT_HALF),
    {"x": lambda g, x: gelu_grad(g, x)},
    decompose=lambda x: 0.5 * x * (erf(x * SQRT_HALF) + 1.0), **COMPOSITE | {"num": MIXED},
    doc="Return x times the normal distribution function of x (Hendrycks and Gimpel 2016).")
# 0.5 * (1 + tanh(u)) is sigmoid(2u): one exponential, and nothing cancels.
_E = "(1 + exp2(x * (-2.302208198144325 - 0.1029432395800235 * x * x)))"
gelu_tanh_grad: Op = elementwise("gelu_tanh_grad", "g x",
    f"g * (1 / {_E} + x * (1 / {_E}) * (1 - 1 / {_E}) * (1.5957691216057308 + 0.21406444881780074 * x * x))",
    None, decompose=_gelu_tanh_grad, **GRADIENT, doc="Return the gradient of gelu_tanh.")
gelu_tanh: Op = unary("gelu_tanh", f"x / {_E}",
    lambda x: x / (1 + np.exp(-2 * GELU_K * (x + 0.044715 * x**3))),
    {"x": lambda g, x: gelu_tanh_grad(g, x)}, decompose=lambda x: 0.5 * x * (_gelu_inner(x) + 1.0),
    **COMPOSITE | {"num": MIXED},
    doc="Return GELU by its tanh approximation (Hendrycks and Gimpel 2016).")
softplus: Op = unary("softplus", "select(x > 20, x, log1p(exp(min(x, 20))))",
    lambda x: np.where(x > 20, x, np.logaddexp(x, 0)), {"x": lambda g, x: g * sigmoid(x)},
    decompose=lambda x: where(x > 20.0, x, log1p(exp(minimum(x, 20.0)))), **COMPOSITE | {"num": MIXED},
    doc="Return log(1 + exp(x)); x itself above 20, as PyTorch.")
reciprocal: Op = unary("reciprocal", "1 / x", lambda x: 1 / x, {"x": lambda g, y: -g * (y * y)},
    decompose=lambda x: 1.0 / x, **COMPOSITE | {"num": EXACT},
    doc="Return 1 / x.")
rsqrt: Op = unary("rsqrt", "1 / sqrt(x)", lambda x: 1 / np.sqrt(x), {"x": lambda g, y: g * (y * y * y * -0.5)},
    decompose=lambda x: 1.0 / sqrt(x), **COMPOSITE | {"num": ulp(4)},
    doc="Return 1 / sqrt(x).")
square: Op = unary("square", {"float": "x * x", "int": "x * x", "uint": "x * x"}, lambda x: x * x,
    {"x": lambda g, x: g * (x * 2.0)}, decompose=lambda x: mul(x, x),
    tier="composite", dtypes=NUMERIC,
    doc="Return x * x.")
true_div: Op = binary("true_div", "a / b", np.divide,
    {"a": lambda g, b, shape_a: sum_to(g / b, shape_a),
        "b": lambda g, a, b, shape_b: sum_to(-g * ((a / b) / b), shape_b)},
    decompose=lambda a, b: div(a, b), samples=div.samples, **COMPOSITE | {"num": EXACT},
    doc="Divide; integers are divided in the default float type.")
ne: Op = binary("ne", "a != b", np.not_equal, {}, spec=boolean, decompose=lambda a, b: bit_not(eq(a, b)),
    tier="composite",
    doc="Return where a differs from b.")
gt: Op = binary("gt", "a > b", np.greater, {}, spec=boolean, decompose=lambda a, b: lt(b, a), tier="composite",
    doc="Return where a is above b.")
ge: Op = binary("ge", "a >= b", np.greater_equal, {}, spec=boolean, decompose=lambda a, b: le(b, a), tier="composite",
    doc="Return where a is at least b.")
clamp: Op = elementwise("clamp", "x lo hi", "min(max(x, lo), hi)",
    lambda x, lo, hi: minimum.reference(maximum.reference(x, lo), hi),
    {"x": lambda g, x, lo, hi, shape_x: sum_to(where(bit_and(le(lo, x), le(x, hi)), g, 0.0), shape_x),
        "lo": lambda g, x, lo, hi, shape_lo: sum_to(where(bit_and(lt(x, lo), le(lo, hi)), g, 0.0), shape_lo),
        "hi": lambda g, x, lo, hi, shape_hi: sum_to(where(lt(hi, maximum(x, lo)), g, 0.0), shape_hi)},
    decompose=lambda x, lo, hi: minimum(maximum(x, lo), hi), tier="composite", dtypes=NUMERIC,
    kinks=lambda x, lo, hi: (x == lo) | (x == hi),
    samples=[s((4, 5), -1, 1), s((7,), (7,), 3), s((), -1, 2), s((0, 3), -1, 1), s((4, 5), (5,), (4, 1))],
    doc="Limit x to [lo, hi]; at the bounds the gradient passes.")
