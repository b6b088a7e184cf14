"""Elementwise kernels against NumPy: every op in every dtype, every layout of an operand."""

import math
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from calls import array, numpy_dtype, storage

from treadle.dtypes import ALL, dtype
from treadle.ops import CATALOGUE
from treadle.spec import Spec
from treadle_backend_cpu import _native as native
from treadle_backend_cpu.kernels.elementwise import _expression, elementwise

TOOL = Path(__file__).parents[1] / "tools" / "generate_elementwise.py"
OPS = [op for op in CATALOGUE.values() if op.c_expr is not None]
SIZES = (0, 1, 7, 16, 65, 1000, 70001)
SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 0.5, 2.5, -1.5, 20.5, -30.0, 3.0]
PAIRS = np.array(np.meshgrid(SPECIAL, SPECIAL)).reshape(2, -1)
erf = np.vectorize(math.erf, otypes=[np.float64])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gelu_tanh_grad(g, x):
    """By the logistic function: its terms do not cancel, those of the tanh form do."""
    s = 1 / (1 + np.exp(-2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return g * (s + x * s * (1 - s) * 2 * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x * x))


GRADIENTS = {
    "tanh_grad": lambda g, y: g * (1 - y * y),
    "relu_grad": lambda g, y: np.where(y <= 0, 0, g),
    "sigmoid_grad": lambda g, y: g * y * (1 - y),
    "silu_grad": lambda g, x: g * sigmoid(x) * (1 + x * (1 - sigmoid(x))),
    "gelu_grad": lambda g, x: g * (0.5 * (1 + erf(x / math.sqrt(2))) + x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi)),
    "gelu_tanh_grad": gelu_tanh_grad,
}


TERMS = {"gelu_tanh_grad": 4}  # how much more than its operands the terms of an op can be that cancel


def integer_pow(a, b):
    """Wrap as C does; a negative exponent gives 0 unless the base is 1 or -1."""
    bits, made = 8 * a.itemsize, []
    for x, y in zip(a.tolist(), b.tolist(), strict=True):
        made.append(pow(x, y, 1 << bits) if y >= 0 else {1: 1, -1: 1 - 2 * (y % 2)}.get(x, 0) % (1 << bits))
    return np.array(made, f"uint{bits}").view(a.dtype)


def reference(op, dt):
    if op.name == "pow" and dt.kind != "f":
        return integer_pow
    return op.reference or GRADIENTS[op.name]


def call_of(op, arrays):
    """Return what the core would ask the factory; an operand may be a Python number."""
    tensors = [a for a in arrays if isinstance(a, np.ndarray)]
    shape = np.broadcast_shapes(*(a.shape for a in tensors))
    main = next(
        a
        for a, i in zip(arrays, op.inputs, strict=True)
        if isinstance(a, np.ndarray) and (i.name != "c" or len(tensors) == 1)
    )
    specs = [Spec(shape, ALL[0] if i.name == "c" else dtype(main.dtype.name)) for i in op.inputs]
    ins = tuple(
        SimpleNamespace(
            shape=a.shape,
            strides=tuple(s // a.itemsize for s in a.strides),
            dtype=dtype(a.dtype.name),
        )
        if isinstance(a, np.ndarray)
        else type(a)
        for a in arrays
    )
    return SimpleNamespace(op=op, ins=ins, outs=(op.spec(*specs),), attrs={}, want=(True,))


def run(name, *arrays, out=None):
    """Run an op; arrays must have been broadcast already."""
    call = call_of(CATALOGUE[name], arrays)
    kernel = elementwise(None, call)
    given = [storage(a) if isinstance(a, np.ndarray) else a for a in arrays]
    if out is not None:
        kernel(*given, storage(out))
        return out
    return array(kernel(*given), call.outs[0])


def operands(op, dt, n, seed=0):
    """Return arguments in the op's domain, with special values first."""
    rng = np.random.default_rng(seed)
    made = []
    for k, operand in enumerate(op.inputs):
        if operand.name == "c" or dt.kind == "b":
            made.append(rng.integers(0, 2, n).astype(np.bool_))
            continue
        if dt.kind == "f":
            x = rng.standard_normal(n) * 3
            x[: PAIRS.shape[1]] = PAIRS[min(k, 1)][:n]
            x = np.minimum(x, 20) if op.name == "softplus" else x  # beyond, a small term may be left out
        else:
            info = np.iinfo(dt.np)
            x = rng.integers(info.min, info.max, n, dtype=dt.np, endpoint=True)
            small = rng.integers(-9 if dt.kind == "i" else 0, 70, n)
            x = np.where(rng.integers(0, 2, n) == 1, x, small.astype(dt.np))
            x[:3] = [info.min, info.max, info.min][: min(n, 3)]
            if op.name in ("div", "rem") and k == 1:
                x[:3] = [-1 if dt.kind == "i" else 1, 1, 2][: min(n, 3)]
                x[x == 0] = 3
        made.append(x.astype(dt.np))
    return made


def eps(dt):
    return {"f16": 2**-10, "bf16": 2**-7, "f32": 2**-23, "f64": 2**-52}[dt.short]


def tiny(dt):
    return {"f16": 2**-24, "bf16": 2**-133, "f32": 2**-149, "f64": 5e-324}[dt.short]


def check_float(op, dt, got, args):
    wide = [a if a.dtype == np.bool_ else a.astype(np.float64) for a in args]
    want = np.asarray(reference(op, dt)(*wide))
    got = got.astype(np.float64)
    compute = eps(dtype("float64" if dt.short == "f64" else "float32"))
    terms = TERMS.get(op.name, 1) * sum(np.abs(w) for w in wide) if op.num.kind == "mixed" else 0
    limit = {"exact": 0.5, "ulp": op.num.limit, "mixed": op.num.limit}[op.num.kind]
    room = (0.501 if op.num.kind == "exact" or dt.itemsize == 2 else 0) * eps(dt) + (
        limit if op.num.kind != "exact" else 0
    ) * compute
    allowed = room * np.abs(want) + op.num.limit * compute * terms + tiny(dt)
    largest = float(np.finfo(np.float32).max) if dt.short == "bf16" else float(np.finfo(dt.np).max)
    fits = np.isfinite(want) & (np.abs(want) <= largest) & np.isfinite(terms)
    bad = np.where(fits, ~(np.abs(got - want) <= allowed), False)
    over = np.abs(want) > largest
    bad |= over & (np.abs(got) < largest * (1 - 2 * eps(dt)))
    bad |= ~np.isfinite(want) & ~over & ~((got == want) | np.isnan(got) & np.isnan(want))
    where = np.flatnonzero(bad)[:5]
    assert not len(where), (
        op.name,
        dt.name,
        [(tuple(a[i] for a in args), got[i], want[i]) for i in where],
    )


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_every_dtype_and_size(op):
    for dt in sorted(op.dtypes, key=lambda d: d.code):
        if _expression(op, dt) is None:
            continue
        for n in SIZES if dt.short in ("f32", "i32", "b1", "f16") else (1, 169, 1003):
            args = operands(op, dt, n)
            got = run(op.name, *args)
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                if got.dtype != np.bool_ and dt.kind == "f":
                    check_float(op, dt, got, args)
                    continue
                want = np.asarray(reference(op, dt)(*args)).astype(got.dtype)
            np.testing.assert_array_equal(got, want, err_msg=f"{op.name} {dt.name}")


def test_every_kernel_is_claimed():
    claimed = {(claim.op, dt.short) for claim in elementwise.claims for dt in claim.dtypes}
    names = set(native.names())
    assert {f"{op}_{short}" for op, short in claimed} <= names
    assert claimed == {(op.name, dt.short) for op in OPS for dt in op.dtypes if _expression(op, dt) is not None}


def layouts(rng, name, big):
    """Yield arrays of one shape that lie in memory in every way."""
    m, k, n = (60, 41, 130) if big else (3, 5, 7)
    dt = numpy_dtype(name)

    def made(*shape):
        return rng.integers(1, 100, shape).astype(dt)

    yield made(m, k, n)
    yield made(n, k, m).T
    yield made(m, n, k).transpose(0, 2, 1)
    yield made(k, m, n).transpose(1, 0, 2)
    yield made(m, k, n)[::-1, :, ::-1]
    yield made(2 * m, k, 3 * n)[::2, :, ::3]
    yield made(m, k, n + 9)[:, :, 4 : n + 4]
    yield made(m, k + 3, n)[:, 2 : k + 2]
    yield np.broadcast_to(made(n), (m, k, n))
    yield np.broadcast_to(made(k, 1), (m, k, n))
    yield np.broadcast_to(made(m, 1, 1), (m, k, n))
    yield np.broadcast_to(made(m, 1, n), (m, k, n))
    yield np.broadcast_to(made(1), (m, k, n))
    yield np.broadcast_to(made(n, 2)[:, 0], (m, k, n))


@pytest.mark.parametrize("name", ["float32", "float16", "float64", "int8", "int64"])
@pytest.mark.parametrize("big", [False, True])
def test_layouts(name, big):
    rng = np.random.default_rng(1)
    every = list(layouts(rng, name, big))
    for i, a in enumerate(every):
        for b in every[i % 3 :: 3] if big else every:
            with np.errstate(over="ignore"):
                np.testing.assert_array_equal(run("sub", a, b), a - b)
        c = every[(i + 5) % len(every)]
        flags = np.broadcast_to(rng.integers(0, 2, (a.shape[0], 1, a.shape[2])).astype(np.bool_), a.shape)
        np.testing.assert_array_equal(run("where", flags, a, c), np.where(flags, a, c))
        np.testing.assert_array_equal(run("lt", a, c), a < c)
        np.testing.assert_array_equal(run("neg", a), -a)


@pytest.mark.parametrize("shape", [(3, 1000), (70, 600), (2, 9, 1024), (5000, 3), (4096, 17)])
def test_rows_with_bias(shape):
    rng = np.random.default_rng(2)
    for name in ("float32", "bfloat16"):
        x, bias = (rng.standard_normal(s).astype(numpy_dtype(name)) for s in (shape, shape[-1]))
        want = (x.astype(np.float32) + bias.astype(np.float32)).astype(x.dtype)
        np.testing.assert_array_equal(run("add", x, np.broadcast_to(bias, shape)), want)
        column = np.broadcast_to(x[..., :1], shape)
        want = (x.astype(np.float32) * column.astype(np.float32)).astype(x.dtype)
        np.testing.assert_array_equal(run("mul", x, column), want)


def test_large_transposed():
    x = np.arange(700 * 900, dtype=np.float32).reshape(700, 900)
    np.testing.assert_array_equal(run("add", x.T, x.reshape(900, 700)), x.T + x.reshape(900, 700))
    half = (x % 2000).astype(np.float16)
    np.testing.assert_array_equal(run("neg", half.T), -half.T)


def test_numbers():
    x = np.array([1, -2, 3], np.float32)
    np.testing.assert_array_equal(run("add", x, 2.5), x + np.float32(2.5))
    np.testing.assert_array_equal(run("sub", 1, x), 1 - x)
    np.testing.assert_array_equal(run("pow", x, 2), x * x)
    np.testing.assert_array_equal(run("mul", x.astype(np.int32), 3), [3, -6, 9])
    np.testing.assert_array_equal(run("clamp", x, -1.0, 2.0), [1, -1, 2])
    flags = np.array([True, False, True])
    np.testing.assert_array_equal(run("where", flags, x, 0.5), np.where(flags, x, np.float32(0.5)))
    np.testing.assert_array_equal(run("where", flags, 0.5, x), np.where(flags, np.float32(0.5), x))
    np.testing.assert_array_equal(run("where", True, x, -x), x)
    big = np.arange(100_000, dtype=np.float16)
    np.testing.assert_array_equal(run("add", big, 1.0), big + np.float16(1))


def test_in_place():
    for n in (5, 40, 100_000):
        a, b = np.arange(n, dtype=np.float32), np.full(n, 2, np.float32)
        run("mul", a, b, out=a)
        np.testing.assert_array_equal(a, np.arange(n, dtype=np.float32) * 2)
        run("sub", b, a, out=a)
        np.testing.assert_array_equal(a, 2 - np.arange(n, dtype=np.float32) * 2)
        run("sin", a, out=a)
        half = (np.arange(n) % 1000).astype(np.float16)
        run("add", half, half, out=half)
        np.testing.assert_array_equal(half, np.arange(n) % 1000 * 2)


@pytest.mark.parametrize("op", ["div", "rem"])
def test_integer_division_by_zero(op):
    for n, name in ((5, "int32"), (100_000, "int64"), (70, "uint8")):
        a, b, out = np.ones(n, name), np.ones(n, name), np.full(n, 7, name)
        run(op, a, b, out=out)
        out[:] = 7
        b[-1] = 0
        spread = np.zeros(2 * n, name)
        spread[::2] = b
        for divisor in (b, spread[::2], np.broadcast_to(b[-1:], (n,)), 0):
            with pytest.raises(ZeroDivisionError):
                run(op, a, divisor, out=out)
        assert (out == 7).all()
    assert run(op, np.zeros(0, np.int32), np.zeros(0, np.int32)).size == 0
    lowest = np.full(70, np.iinfo(np.int64).min)
    np.testing.assert_array_equal(run(op, lowest, np.full(70, -1)), lowest if op == "div" else 0)


def test_signed_zero_and_nan():
    a = np.array([-0.0, 0.0, np.nan, 1.0, np.nan], np.float32)
    b = np.array([0.0, -0.0, 1.0, np.nan, np.nan], np.float32)
    high, low = run("maximum", a, b), run("minimum", a, b)
    np.testing.assert_array_equal(np.signbit(high[:2]), [False, False])
    np.testing.assert_array_equal(np.signbit(low[:2]), [True, True])
    assert np.isnan(high[2:]).all() and np.isnan(low[2:]).all()
    np.testing.assert_array_equal(
        np.signbit(run("round", np.array([-0.5, -0.2, 0.5, 1.5], np.float32))),
        [True, True, False, False],
    )
    np.testing.assert_array_equal(np.signbit(run("floor", np.array([-0.0, 0.2], np.float64))), [True, False])


def test_shifts_beyond_the_width():
    for name in ("int8", "int32", "int64", "uint16"):
        bits = np.dtype(name).itemsize * 8
        a = np.array([5, 5, 5, 100, 5], name)
        b = np.array([0, 1, bits - 1, bits, bits + 1], name)
        np.testing.assert_array_equal(run("shl", a, b)[3:], 0)
        np.testing.assert_array_equal(run("shr", a, b), [5, 2, 0, 0, 0])
        if name[0] == "i":
            np.testing.assert_array_equal(run("shr", -a, b)[2:], -1)
            np.testing.assert_array_equal(run("shl", a, -b - 1), 0)


def test_threads_do_not_matter():
    x, y = (np.random.default_rng(s).standard_normal(300_001).astype(np.float32) for s in (3, 4))
    before, results = native.get_num_threads(), []
    for threads in (1, 2, 4):
        native.set_num_threads(threads)
        results.append([run(op, x, y).tobytes() for op in ("add", "pow", "atan2", "gelu_grad", "rem")])
    native.set_num_threads(before)
    assert results[0] == results[1] == results[2]


def test_streamed_results():
    n = (33 << 20) // 4 + 5
    x = np.arange(n, dtype=np.float32)
    np.testing.assert_array_equal(run("neg", x), -x)
    np.testing.assert_array_equal(run("add", x, 1.0), x + 1)


def test_generated_files_are_current():
    done = subprocess.run([sys.executable, TOOL, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
