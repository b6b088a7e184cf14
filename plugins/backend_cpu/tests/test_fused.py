"""Fused regions: bit for bit what the single kernels give one after the other, and right by NumPy in float64."""

import os
import random
import subprocess
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from bodies import Body, inputs, results
from calls import array, close, factory, normal, numpy_dtype, on_threads, storage

from treadle.dtypes import dtype
from treadle.ops import CATALOGUE
from treadle.ops.fused import MIX
from treadle.spec import Spec
from treadle_backend_cpu.kernels import elementwise, fused

FLOATS = (
    ["float32"],
    ["float32"],
    ["float64"],
    ["float32", "float16"],
    ["bfloat16"],
    ["float32", "bfloat16", "float16"],
)
SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, -1e-40, 1e-310, 1e30, -1e30, 1, -1, 2.5, 88.8, -104.0, 65504.0]
SIZES = (1, 2, 3, 5, 7, 16, 33, 64, 127, 128, 130, 257)
GELU = (("mul", 0, 1.1), ("add", 1, 0.3), ("gelu_tanh", 2))


def sig(a):
    strides = tuple(s // a.itemsize for s in a.strides)
    return SimpleNamespace(shape=a.shape, dtype=dtype(a.dtype.name), strides=strides)


def bind(xs, body, results_):
    """Return (bound kernel, specs of the results); the kernel is None where the region is declined."""
    attrs = {"body": body, "results": results_}
    outs = results([x.dtype.name for x in xs], xs[0].shape, attrs, dtype)
    call = SimpleNamespace(
        op=CATALOGUE["fused"], ins=tuple(map(sig, xs)), outs=outs, attrs=attrs, want=(True,) * len(outs)
    )
    return factory(fused, "fused")(None, call), outs


def together(xs, body, results_):
    """The results of the fused kernel."""
    kernel, outs = bind(xs, body, results_)
    assert kernel is not None
    made = kernel(*map(storage, xs))
    made = made if isinstance(made, tuple) else (made,)
    return tuple(array(m, o) for m, o in zip(made, outs, strict=True))


def single(name, xs):
    """One op by its own kernel."""
    op = CATALOGUE[name]
    like = next(x for x, i in zip(xs, op.inputs, strict=True) if isinstance(x, np.ndarray) and i.name != "c")
    out = Spec(like.shape, op.spec(*[Spec((), dtype(like.dtype.name))] * len(xs)).dtype)
    ins = tuple(sig(x) if isinstance(x, np.ndarray) else float for x in xs)
    call = SimpleNamespace(op=op, ins=ins, outs=(out,), attrs={}, want=(True,))
    run = elementwise.elementwise(None, call)
    return array(run(*(storage(x) if isinstance(x, np.ndarray) else x for x in xs)), out)


def one_by_one(xs, body, results_):
    """The results of the single kernels."""
    values = list(xs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # casts beyond the largest number
        for name, *operands in body:
            given = [values[x] if isinstance(x, int) else x for x in operands]
            if name == "cast":
                to = numpy_dtype(given[1])
                values.append(given[0].astype(to, order="C"))
            else:
                values.append(single(name, given))
    return tuple(np.array(values[r], order="C") for r in results_)


def assert_same_bits(got, want):
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        integer = f"u{a.itemsize}"
        same = a.view(integer) == b.view(integer)
        if a.dtype.kind != "b":
            same |= np.isnan(a.astype(np.float64)) & np.isnan(b.astype(np.float64))  # of whatever sign
        assert same.all(), (a[~same][:4], b[~same][:4])


# ---- random regions ------------------------------------------------------------------------------------------------
def layout(rnd, rng, shape, kind):
    """An operand in some layout: dense, broadcast, reversed, spaced, transposed."""

    def made(*dims):
        a = rng.standard_normal(dims) * rng.choice([1, 1, 10, 1e3])
        if rnd.random() < 0.4:
            a = np.where(rng.random(dims) < 0.3, rng.choice(SPECIAL, size=dims), a)
        with np.errstate(over="ignore"):
            return np.asarray(a > 0 if kind == "bool" else a.astype(numpy_dtype(kind)))

    way = rnd.random()
    if way < 0.4 or not shape:
        return made(*shape)
    if way < 0.65:
        return np.broadcast_to(made(*(n if rnd.random() < 0.5 else 1 for n in shape)), shape)
    if way < 0.75:
        return np.broadcast_to(made(), shape)
    if way < 0.85:
        return made(*(2 * n for n in shape))[tuple(slice(0, 2 * n, 2) for n in shape)]
    return made(*shape)[::-1] if way < 0.92 else made(*shape[::-1]).T


def region(seed):
    """Random operands, body and results."""
    rnd, rng = random.Random(seed), np.random.default_rng(seed)
    floats = rnd.choice(FLOATS)
    shape = tuple(rnd.choice(SIZES) for _ in range(rnd.randrange(4)))
    shape = shape if np.prod(shape) < 50_000 else shape[:2]
    shape = rnd.choice([(0,), (3, 0), (40_001,), (130, 512)]) if rnd.random() < 0.06 else shape
    kinds = inputs(rnd, floats)
    body = Body(rnd, kinds, floats, rnd.randint(1, 14))
    return [layout(rnd, rng, shape, k) for k in kinds], *body.attrs.values()


@pytest.mark.parametrize("block", range(10))
def test_random_regions_are_bit_equal_to_single_kernels(block):
    declined = 0
    for seed in range(60 * block, 60 * block + 60):
        xs, body, numbers = region(seed)
        if bind(xs, body, numbers)[0] is None:
            declined += 1
            continue
        assert_same_bits(together(xs, body, numbers), one_by_one(xs, body, numbers))
    assert declined < 6


@pytest.mark.parametrize("level", ["base", "avx2", "avx512"])
def test_other_instruction_sets(level):
    """The same, in a process that is made to use them."""
    program = "from test_fused import *; [test_random_regions_are_bit_equal_to_single_kernels(k) for k in (1, 2)]"
    path = os.pathsep.join(filter(None, [os.path.dirname(__file__), *sys.path]))
    environment = {**os.environ, "TREADLE_CPU_ISA": level, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 or f"TREADLE_CPU_ISA={level}: this " in done.stderr, done.stderr


# ---- against NumPy in float64 --------------------------------------------------------------------------------------
STEADY = {  # functions that do not enlarge an error
    "tanh": np.tanh, "sigmoid": lambda x: 1 / (1 + np.exp(-x)), "relu": lambda x: np.maximum(x, 0), "sin": np.sin,
    "erf": None, "abs": np.abs, "neg": np.negative, "add": np.add, "sub": np.subtract, "maximum": np.maximum,
    "minimum": np.minimum,
}  # fmt: skip


@pytest.mark.parametrize("kind", ["float32", "float64"])
@pytest.mark.parametrize("seed", range(20))
def test_values_by_numpy(kind, seed):
    rnd = random.Random(seed)
    names = [n for n, f in STEADY.items() if f is not None]
    xs = [normal((19, 23), kind, seed + k) for k in range(3)]
    values, body = [x.astype(np.float64) for x in xs], []
    for _ in range(12):
        name = rnd.choice(names)
        operands = [rnd.randrange(len(values)) for _ in CATALOGUE[name].inputs]
        body.append((name, *operands))
        values.append(STEADY[name](*(values[k] for k in operands)))
    last = len(values) - 1
    got = together(xs, tuple(body), (last, last - 3))
    close(got[0], values[last], kind, 64, 1)
    close(got[1], values[last - 3], kind, 64, 1)


@pytest.mark.parametrize("shape", [(1,), (16,), (100,), (5, 7), (129, 1023)])
def test_gelu_chain_by_numpy(shape):
    x = normal(shape, "float32", scale=2)
    u = x.astype(np.float64) * np.float32(1.1) + np.float32(0.3)
    (y,) = together([x], GELU, (3,))
    close(y, 0.5 * u * (1 + np.tanh(np.sqrt(2 / np.pi) * (u + 0.044715 * u**3))), "float32", 4)


# ---- memory --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("n", [3, 16, 100, 128, 1000, 40_000])
@pytest.mark.parametrize("which", [0, 1])
def test_a_result_may_lie_where_an_operand_does(n, which):
    """Also where it is written before the operand has been read for the last time."""
    body = (("mul", 0, 1), ("add", 2, 0), ("sub", 3, 1), ("tanh", 4))
    for numbers in ((5,), (2, 5), (5, 3)):
        xs = [normal((n,), "float32", k) for k in range(2)]
        want = one_by_one(xs, body, numbers)
        targets = [xs[which], *(np.empty(n, np.float32) for _ in numbers[1:])]
        bind(xs, body, numbers)[0](*map(storage, xs), *map(storage, targets))
        assert_same_bits(targets, want)


@pytest.mark.parametrize(
    "rows", [[(64, 33), (33,)], [(64, 600), (600,)], [(3000, 130), (3000, 1)], [(9, 4096), (1, 1)]]
)
@pytest.mark.parametrize("kind", ["float32", "float64", "bfloat16"])
def test_rows_and_columns(rows, kind):
    shape, small = rows
    xs = [normal(shape, kind), np.broadcast_to(normal(small, kind, 1), shape), normal(shape, kind, 2)]
    assert_same_bits(together(xs, MIX, (8, 4)), one_by_one(xs, MIX, (8, 4)))


@pytest.mark.parametrize("n", [70_001, (32 << 20) // 4 + 5])
def test_threads_and_results_past_the_caches(n):
    """The larger size is written with stores that bypass the caches."""
    x = normal((n,), "float32")
    (y,) = on_threads(lambda: together([x], GELU, (3,)))
    assert_same_bits([y], one_by_one([x], GELU, (3,)))


# ---- what is bound -------------------------------------------------------------------------------------------------
def test_numbers_of_equal_value_are_told_apart():
    x = normal((8,), "float32")
    assert np.signbit(together([x], (("mul", 0, 0.0), ("maximum", 1, -0.0), ("mul", 2, -0.0)), (3,))[0]).any()
    first, second = (together([x * 0], (("add", 0, zero),), (1,))[0] for zero in (-0.0, 0.0))
    assert_same_bits([first], [x * 0 + np.float32(-0.0)])
    assert_same_bits([second], [np.zeros_like(x)])


def test_too_much_is_declined():
    x = normal((8,), "float32")
    assert bind([x] * 9, (("add", 0, 8),), (9,))[0] is None
    mixed = [x, normal((8,), "float64")]
    assert bind(mixed, (("exp", 0), ("exp", 1)), (2, 3))[0] is None
