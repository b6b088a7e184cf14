"""Mathematics: how many units in the last place the functions are off, over all numbers."""

import math
import sys

import numpy as np
import pytest
from test_elementwise import run

STEP = 20011  # through all float32 bit patterns: 215,000 of them
LIMIT32 = {"exp": 2, "log": 2, "expm1": 4, "log1p": 4, "sin": 4, "cos": 4, "tanh": 4, "erf": 4}
RANGES64 = {
    "exp": (-746, 711), "log": (0, 10), "expm1": (-50, 711), "log1p": (-1, 3), "tanh": (-20, 20),
    "erf": (-6.2, 6.2), "sin": (-2e6, 2e6), "cos": (-2e6, 2e6),
}  # fmt: skip
EDGES = [
    0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 2.0, -2.0, 0.5, -0.5, 3.0, -3.0,
    1e-45, -1e-45, 3.4e38, -3.4e38, 1e30, 2.0**24, 2.0**23 - 1, 2.0**-126, 0.99999994, 1.0000001,
    -0.99999994, 88.72284, 88.7228, -103.97208, -87.33655,
]  # fmt: skip
EDGES64 = [
    *EDGES,
    5e-324,
    -5e-324,
    1.7e308,
    -1.7e308,
    2.0**-1022,
    709.782712893384,
    -745.13,
    1e22,
    2.0**52,
    2.0**1023,
]
wide_erf = np.vectorize(math.erf, otypes=[np.float64])
long_enough = pytest.mark.skipif(np.finfo(np.longdouble).eps > 1e-18, reason="needs a long double wider than double")


def ulps(got, want):
    """Return errors in units of got's last place; signs of zero, infinities, NaN must agree."""
    info = np.finfo(got.dtype)
    with np.errstate(all="ignore"):
        near = want.astype(got.dtype)
        unit = np.spacing(np.maximum(np.abs(near), info.smallest_normal)).astype(want.dtype)
        unit[np.isinf(near)] = np.spacing(info.max)
        error = np.abs(got.astype(want.dtype) - want) / unit
    same = (np.isnan(got) & np.isnan(want)) | ((got == near) & (np.signbit(got) == np.signbit(near)))
    close = np.isfinite(got) | (np.abs(near) >= info.max * 0.9999999)
    return np.where(
        same,
        np.where(np.isfinite(error), np.minimum(error, 0.5), 0),
        np.where(close, np.nan_to_num(error, nan=1e9), 1e9),
    )


def check(got, want, limit, *args):
    error = ulps(got, want)
    worst = int(np.argmax(error))
    assert error[worst] <= limit, (error[worst], [a[worst] for a in args], got[worst], want[worst])


def all_floats():
    bits = np.arange(0, 1 << 32, STEP, dtype=np.uint64).astype(np.uint32)
    return np.concatenate(
        [
            bits.view(np.float32),
            np.array(EDGES, np.float32),
            np.linspace(-20, 20, 60001, dtype=np.float32),
        ]
    )


@pytest.mark.parametrize("name", LIMIT32)
def test_float32(name):
    x = all_floats()
    with np.errstate(all="ignore"):
        want = (wide_erf if name == "erf" else getattr(np, name))(x.astype(np.float64))
    check(run(name, x), want, LIMIT32[name], x)


def doubles(low, high):
    rng = np.random.default_rng(5)
    bits = rng.integers(0, 1 << 64, 30000, dtype=np.uint64).view(np.float64)
    turns = rng.integers(0, 1 << 19, 5000) * (math.pi / 2)
    scales = (rng.random(10000) - 0.5) * 2.0 ** rng.integers(-20, 30, 10000)
    return np.concatenate([EDGES64, bits, turns, scales, rng.uniform(low, high, 30000)])


@long_enough
@pytest.mark.parametrize("name", RANGES64)
def test_float64(name):
    x = doubles(*RANGES64[name])
    with np.errstate(all="ignore"):
        want = wide_erf(x).astype(np.longdouble) if name == "erf" else getattr(np, name)(x.astype(np.longdouble))
    check(run(name, x), want, 4, x)


def pairs(dt):
    """Return two arrays: all pairs of edges, random bits, and moderate numbers."""
    rng = np.random.default_rng(6)
    edges = np.array(np.meshgrid(EDGES, EDGES)).reshape(2, -1)
    bits = rng.integers(0, 1 << (8 * np.dtype(dt).itemsize), (2, 40000), dtype=np.uint64)
    random = bits.astype(f"uint{8 * np.dtype(dt).itemsize}").view(dt)
    moderate = rng.standard_normal((2, 40000)) * [[2.0], [20.0]]
    moderate[0, ::2] = 1 + moderate[0, ::2] * 0.01
    with np.errstate(over="ignore"):
        return np.concatenate([edges.astype(dt), random, moderate.astype(dt)], axis=1)


@pytest.mark.parametrize(("name", "function"), [("pow", np.power), ("atan2", np.arctan2), ("rem", np.fmod)])
def test_two_arguments_float32(name, function):
    a, b = pairs(np.float32)
    with np.errstate(all="ignore"):
        want = function(a.astype(np.float64), b.astype(np.float64))
    check(run(name, a, b), want, 0.5 if name == "rem" else 4, a, b)


@long_enough
@pytest.mark.parametrize(("name", "function"), [("pow", np.power), ("atan2", np.arctan2), ("rem", np.fmod)])
def test_two_arguments_float64(name, function):
    a, b = pairs(np.float64)
    with np.errstate(all="ignore"):
        want = function(a.astype(np.longdouble), b.astype(np.longdouble))
    check(run(name, a, b), want, 0.5 if name == "rem" else 4, a, b)


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_rounding_is_exact(name):
    with np.errstate(invalid="ignore"):  # a signalling NaN is among them
        x = np.concatenate(
            [all_floats(), np.arange(-9, 9, 0.25), [2.0**52 + 0.5, 2.0**52 - 0.5]],
            dtype=name,
            casting="unsafe",
        )
    for op, function in (
        ("floor", np.floor),
        ("round", np.rint),
        ("sqrt", np.sqrt),
        ("abs", np.abs),
        ("sign", np.sign),
    ):
        with np.errstate(all="ignore"):
            want = function(x)
        got = run(op, x)
        np.testing.assert_array_equal(got, want)
        np.testing.assert_array_equal(
            np.signbit(got[~np.isnan(want)]),
            np.signbit(want[~np.isnan(want)]) & (op != "sign") | (want[~np.isnan(want)] < 0),
        )


def test_hardest_cosine():
    """The double nearest to a multiple of pi/2 needs over a thousand bits of pi."""
    x = np.array([5.319372648326541e255])
    assert run("cos", x)[0] == float.fromhex("-0x1.14ae72e6ba22fp-61")
    assert abs(run("sin", np.array([sys.float_info.max]))[0] - 0.004961954789184062) < 1e-18


def test_a_block_with_one_huge_argument():
    x = np.linspace(-3, 3, 64, dtype=np.float32)
    x[37] = 1e30
    for name, function in (("sin", np.sin), ("cos", np.cos)):
        check(run(name, x), function(x.astype(np.float64)), 2, x)
    a = np.full(40, 1e30, np.float32)
    np.testing.assert_array_equal(run("rem", a, np.full(40, 7, np.float32)), np.fmod(a, np.float32(7)))
