"""Copies between layouts, and casts between all pairs of dtypes."""

from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from calls import NAMES, array, numpy_dtype, storage

from treadle.dtypes import dtype
from treadle.spec import Spec
from treadle_backend_cpu import _native as native
from treadle_backend_cpu.kernels import copy

FLOAT_NAMES = ("float16", "bfloat16", "float32", "float64")


def strides_of(a):
    return tuple(s // a.itemsize for s in a.strides)


def copy_into(dst, src):
    copy.copy_strided(storage(dst), dst.shape, strides_of(dst), storage(src), strides_of(src), dst.itemsize)


def views(rng, item, shape):
    """Yield arrays of a shape in every kind of layout; the last ones cannot be written to."""
    m, k, n = shape
    dt = f"uint{8 * item}"

    def made(*sizes):
        return rng.integers(0, 1 << min(8 * item, 63), sizes, dtype=np.uint64).astype(dt)

    yield made(m, k, n)
    yield made(n, k, m).T
    yield made(m, n, k).transpose(0, 2, 1)
    yield made(k, m, n).transpose(1, 0, 2)
    yield made(k, n, m).transpose(2, 0, 1)
    yield made(m, k, n)[::-1, :, ::-1]
    yield made(m, k, n)[:, ::-1]
    yield made(2 * m, k, 3 * n)[1::2, :, ::3]
    yield made(m, k + 2, n + 5)[:, 1:-1, 2:-3]
    yield made(n + 3, k, m + 1)[3:, :, 1:].T
    yield np.broadcast_to(made(n), (m, k, n))
    yield np.broadcast_to(made(m, 1, n), (m, k, n))
    yield np.broadcast_to(made(k, 1), (m, k, n))
    yield np.broadcast_to(made(1), (m, k, n))


@pytest.mark.parametrize("item", [1, 2, 4, 8])
@pytest.mark.parametrize("shape", [(3, 4, 5), (70, 3, 130), (1, 200, 67), (65, 1, 64), (128, 128, 3)])
def test_copy_strided(item, shape):
    rng = np.random.default_rng(item)
    sources, targets = list(views(rng, item, shape)), list(views(rng, item, shape))[:10]
    for i, src in enumerate(sources):
        for dst in targets if shape[0] == 3 else targets[i % 2 :: 2]:
            owner = dst
            while isinstance(owner.base, np.ndarray):
                owner = owner.base
            want = owner.copy()
            place = np.ndarray(
                dst.shape,
                dst.dtype,
                want,
                dst.__array_interface__["data"][0] - owner.__array_interface__["data"][0],
                dst.strides,
            )
            place[:] = src
            copy_into(dst, src)
            np.testing.assert_array_equal(owner, want)  # and nothing beside the region changed


def test_copy_of_nothing_and_of_one():
    for shape in ((0,), (3, 0), ()):
        dst, src = np.zeros(shape, np.float32), np.ones(shape, np.float32)
        copy_into(dst, src)
        np.testing.assert_array_equal(dst, src)


def test_copy_of_six_dimensions():
    src = np.arange(2 * 3 * 4 * 5 * 6 * 7, dtype=np.int32).reshape(2, 3, 4, 5, 6, 7).transpose(5, 1, 3, 0, 4, 2)
    dst = np.zeros(src.shape, np.int32)
    copy_into(dst, src)
    np.testing.assert_array_equal(dst, src)


def test_long_rows_are_split():
    n = 200_003
    dst, src = np.zeros(n, np.int16), np.arange(2 * n, dtype=np.int16)
    copy_into(dst, src[::2])
    np.testing.assert_array_equal(dst, src[::2])
    copy_into(dst, np.broadcast_to(src[5:6], (n,)))
    assert (dst == 5).all()
    tall, wide = np.zeros((n, 40), np.int16), np.arange(40 * n, dtype=np.int16).reshape(40, n)
    copy_into(tall, wide.T)
    np.testing.assert_array_equal(tall, wide.T)
    copy_into(wide, tall.T[::-1])
    np.testing.assert_array_equal(wide, tall.T[::-1])


def test_large_copies_are_streamed():
    src = np.arange(3000 * 3008, dtype=np.float32).reshape(3000, 3008)
    dst = np.zeros((3008, 3000), np.float32)
    copy_into(dst, src.T)
    np.testing.assert_array_equal(dst, src.T)
    square = np.zeros((3008, 3008), np.float32)[:, :3000]
    copy_into(square, src.T)
    np.testing.assert_array_equal(square, src.T)
    flat = np.zeros_like(src)
    copy_into(flat, src)
    np.testing.assert_array_equal(flat, src)


def test_kernels_are_kept():
    copy._BOUND.clear()
    src, dst = np.arange(6.0).reshape(2, 3), np.zeros((3, 2))
    copy_into(dst, src.T)
    copy_into(dst, src.T)
    assert len(copy._BOUND) == 1
    for n in range(copy.MAX_BOUND + 10):
        copy.copy_strided(storage(src), (0, n), (1, 1), storage(src), (1, 1), 8)
    assert 0 < len(copy._BOUND) <= copy.MAX_BOUND


def test_a_result_must_have_room():
    with pytest.raises(ValueError, match="needs"):
        copy.copy_strided(native.alloc(60), (4, 4), (1, 4), native.alloc(64), (4, 1), 4)


# ---- casts ---------------------------------------------------------------------------------------------------------
def cast(x, name):
    ins = (SimpleNamespace(shape=x.shape, strides=strides_of(x), dtype=dtype(x.dtype.name)),)
    call = SimpleNamespace(ins=ins, outs=(Spec(x.shape, dtype(name)),), attrs={"dtype": dtype(name)}, want=(True,))
    return array(copy.cast(None, call)(storage(x)), call.outs[0])


def examples(name):
    rng = np.random.default_rng(7)
    if name == "bool":
        return rng.integers(0, 2, 100).astype(bool)
    if name in FLOAT_NAMES:
        exact = [
            0,
            -0.0,
            np.inf,
            -np.inf,
            np.nan,
            0.5,
            -0.5,
            0.999,
            1.5,
            127.5,
            128,
            -128.9,
            255.9,
            256,
            32768,
            -32769,
            65504,
            65519.9,
            65520,
            2.0**31,
            -(2.0**31),
            2.0**32,
            2.0**63,
            -(2.0**63),
            2.0**64,
            2.0**-24,
            2.0**-25,
            2.0**-25 * 1.001,
            1e-42,
            3e38,
        ]
        numbers = np.concatenate([exact, rng.standard_normal(300) * 2.0 ** rng.integers(-30, 70, 300)])
        with np.errstate(over="ignore"):
            return numbers.astype(numpy_dtype(name))
    info = np.iinfo(name)
    odd = [
        info.min,
        info.max,
        info.max - 1,
        0,
        1,
        *(v for v in ((1 << 24) + 1, (1 << 53) + 1, (1 << 55) + (1 << 31) + 1, 2049, 257) if v <= info.max),
    ]
    return np.concatenate([np.array(odd, name), rng.integers(info.min, info.max, 300, dtype=name, endpoint=True)])


def to_integer(x, name):
    if x.dtype.kind in "biu":
        return x.astype(name)
    info = np.iinfo(name)
    return np.array(
        [
            0
            if np.isnan(v)
            else max(
                info.min,
                min(info.max, int(v) if np.isfinite(v) else info.max if v > 0 else info.min),
            )
            for v in x.astype(np.float64)
        ],
        name,
    )


def nearest_half(value, name):
    """Round a Fraction to float16 or bfloat16 once, ties to even."""
    digits, lowest, highest = {
        "float16": (11, -24, 65504),
        "bfloat16": (8, -133, (2 - 2.0**-7) * 2.0**127),
    }[name]
    exponent = max(lowest, abs(value).numerator.bit_length() - abs(value).denominator.bit_length() - digits - 1)
    while abs(value) / Fraction(2) ** exponent >= 1 << digits:
        exponent += 1
    rounded = round(value / Fraction(2) ** exponent) * Fraction(2) ** exponent
    return float(rounded) if abs(rounded) <= highest else np.copysign(np.inf, float(value))


def to_float(x, name):
    if name in ("float32", "float64") or x.dtype.kind not in "iuf" or x.dtype.itemsize < 8:
        with np.errstate(over="ignore", invalid="ignore"):
            return x.astype(np.float64 if x.dtype.kind in "iu" and x.dtype.itemsize < 8 else x.dtype).astype(
                numpy_dtype(name)
            )
    wide = x.astype(np.float64)
    return np.array(
        [nearest_half(Fraction(v), name) if np.isfinite(w) and v else w for v, w in zip(x.tolist(), wide, strict=True)],
        numpy_dtype(name),
    )


@pytest.mark.parametrize("source", NAMES)
def test_cast(source):
    x = examples(source)
    for target in NAMES:
        want = x != 0 if target == "bool" else to_float(x, target) if target in FLOAT_NAMES else to_integer(x, target)
        got = cast(x, target)
        np.testing.assert_array_equal(
            got.astype(np.float64) if target in FLOAT_NAMES else got,
            want.astype(np.float64) if target in FLOAT_NAMES else want,
            err_msg=f"{source} to {target}",
        )
        if target in FLOAT_NAMES and source in FLOAT_NAMES:
            finite = ~np.isnan(x.astype(np.float64))
            np.testing.assert_array_equal(
                np.signbit(got.astype(np.float64))[finite], np.signbit(x.astype(np.float64))[finite]
            )


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_every_half_number(name):
    x = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16).view(numpy_dtype(name))
    steps = np.arange(0, 1 << 32, 9973, dtype=np.uint64).astype(np.uint32).view(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # signalling NaN are among them
        for wide in ("float32", "float64"):
            up = cast(x, wide)
            np.testing.assert_array_equal(up, x.astype(wide))
            back = cast(up, name)
            np.testing.assert_array_equal(back.astype(wide), x.astype(wide))
        want = steps.astype(x.dtype).astype(np.float64)
        np.testing.assert_array_equal(cast(steps, name).astype(np.float64), want)


@pytest.mark.parametrize("target", ["float32", "float16", "int8", "int32", "float64", "bool"])
def test_cast_of_layouts(target):
    base = np.arange(-3000, 3000, dtype=np.int32).reshape(60, 100)
    for x in (
        base.T,
        base[::2, ::-3],
        np.broadcast_to(base[5], (60, 100)),
        np.broadcast_to(base[:, :1], (60, 100)),
        base[:, 7:50],
        base[3, 4:5],
    ):
        want = x != 0 if target == "bool" else x.astype(target)
        np.testing.assert_array_equal(cast(x, target), want)
    big = np.arange(400 * 500, dtype=np.float32).reshape(400, 500)
    np.testing.assert_array_equal(cast(big.T, "int64"), big.T.astype(np.int64))
    np.testing.assert_array_equal(cast(big.T, "float32"), big.T)


def test_bitcast():
    x = np.arange(24, dtype=np.float32).reshape(4, 6)
    for name, shape in (("int32", (4, 6)), ("uint16", (4, 12)), ("float64", (4, 3))):
        ins = (SimpleNamespace(shape=x.shape, strides=strides_of(x), dtype=dtype("float32")),)
        out = Spec(shape, dtype(name))
        call = SimpleNamespace(ins=ins, outs=(out,), attrs={"dtype": dtype(name)}, want=(True,))
        np.testing.assert_array_equal(array(copy.bitcast(None, call)(storage(x)), out), x.view(name))
