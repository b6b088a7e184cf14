"""Matrix products against NumPy in float64: |error| <= 4 sqrt(K) eps sum |a||b|, plus one rounding for narrow types."""

import itertools
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

from treadle_backend_cpu import _native as native
from treadle_backend_cpu.kernels.matmul import plan
from treadle_backend_cpu.threads import num_threads

FLOATS = {"f16": np.float16, "bf16": ml_dtypes.bfloat16, "f32": np.float32, "f64": np.float64}
INTS = {f"{kind}{8 * size}": np.dtype(f"{kind}{size}") for kind in "iu" for size in (1, 2, 4, 8)}
SHORT = {np.dtype(dtype): name for name, dtype in {**FLOATS, **INTS, "b1": np.bool_}.items()}
COMPUTE_EPS = {"f16": 2.0**-24, "bf16": 2.0**-24, "f32": 2.0**-24, "f64": 2.0**-53}
STORE_EPS = {"f16": 2.0**-11, "bf16": 2.0**-8, "f32": 0.0, "f64": 0.0}


def storage_of(x):
    """A storage whose first byte is that of x, whatever its strides; memory before and behind x belongs to nobody."""
    low, high = np.lib.array_utils.byte_bounds(x) if x.size else (0, 0)
    if not x.size:
        return native.alloc(0)
    base = native.alloc(high - low)
    memory = (np.ctypeslib.ctypes.c_char * (high - low)).from_address(low)
    memoryview(base)[:] = bytes(memory)
    return base.view(x.__array_interface__["data"][0] - low)


def strides_of(x):
    return tuple(step // x.itemsize for step in x.strides)


def product(a, b, bias=None, name="matmul"):
    """a (..., m, k) @ b (..., k, n) [+ bias] by the C kernel."""
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    shape = (*batch, a.shape[-2], b.shape[-1])
    operands = [a, b] + ([] if bias is None else [bias])
    ints = plan(a.shape, strides_of(a), b.shape, strides_of(b))
    nbytes = int(np.prod(shape)) * a.itemsize
    kernel = f"{name}_{SHORT[a.dtype]}"
    run = native.bind(kernel, len(operands), (nbytes,), ints, (), b"\xff" * len(operands), 1000)
    return np.frombuffer(bytes(run(*map(storage_of, operands))), a.dtype).reshape(shape)


def random(rng, shape, dtype):
    return rng.standard_normal(shape).astype(dtype)


def check(a, b, bias=None, name="matmul"):
    y = product(a, b, bias, name)
    wide = [x.astype(np.float64) for x in (a, b)]
    expected, scale = np.matmul(*wide), np.matmul(*map(np.abs, wide))
    if bias is not None:
        expected, scale = expected + bias.astype(np.float64), scale + np.abs(bias.astype(np.float64))
    short = SHORT[a.dtype]
    bound = 4 * max(a.shape[-1], 1) ** 0.5 * COMPUTE_EPS[short] * scale + STORE_EPS[short] * np.abs(expected)
    assert y.shape == expected.shape
    worst = np.abs(y.astype(np.float64) - expected) - bound
    assert not (worst > (0 if short in ("f32", "f64") else 1e-7)).any(), (a.shape, b.shape, worst.max())
    return y


def stored(x, how):
    """x with other strides: n as it is, t transposed in memory, s every second element of each axis, r both axes
    reversed."""
    if how == "t":
        return np.ascontiguousarray(x.swapaxes(-1, -2)).swapaxes(-1, -2)
    if how == "r":
        return np.ascontiguousarray(x[..., ::-1, ::-1])[..., ::-1, ::-1]
    if how == "s":
        sparse = np.zeros((*x.shape[:-2], 2 * x.shape[-2], 2 * x.shape[-1]), x.dtype)
        sparse[..., ::2, ::2] = x
        return sparse[..., ::2, ::2]
    return np.ascontiguousarray(x)


# ---- sizes and layouts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("short", FLOATS)
@pytest.mark.parametrize("a_how, b_how", list(itertools.product("ntsr", repeat=2)))
def test_layouts_and_odd_sizes(short, a_how, b_how):
    rng = np.random.default_rng(1)
    for m, n, k in rng.integers(1, 71, (12 if short == "f32" else 5, 3)):
        a, b = random(rng, (m, k), FLOATS[short]), random(rng, (k, n), FLOATS[short])
        check(stored(a, a_how), stored(b, b_how))


@pytest.mark.parametrize("short", ["f32", "f64"])
def test_every_edge_tile(short):
    rng = np.random.default_rng(2)
    for m, n in itertools.product([*range(1, 17), 29], [*range(1, 34, 3), 64, 65, 67, 130]):
        check(random(rng, (m, 5), FLOATS[short]), random(rng, (5, n), FLOATS[short]))
    for m, k in itertools.product(range(1, 14), (31, 32, 33, 47)):
        check(random(rng, (m, k), FLOATS[short]), random(rng, (9, k), FLOATS[short]).T)


@pytest.mark.parametrize("short", FLOATS)
@pytest.mark.parametrize(
    "m, n, k", [(64, 256, 784), (300, 40, 1100), (3, 17, 5000), (1, 1000, 512), (512, 1, 900), (40, 700, 520)]
)
def test_several_blocks(short, m, n, k):
    rng = np.random.default_rng(3)
    a, b = random(rng, (m, k), FLOATS[short]), random(rng, (k, n), FLOATS[short])
    for a_how, b_how in itertools.product("nt", repeat=2):
        check(stored(a, a_how), stored(b, b_how))


def test_packed_operands_and_rows_4_kib_apart():
    rng = np.random.default_rng(4)
    a, b = random(rng, (300, 1024), np.float32), random(rng, (1024, 600), np.float32)
    check(a, b)
    check(stored(a, "t"), stored(b, "t"))


def test_zero_strides():
    rng = np.random.default_rng(5)
    row, column = random(rng, (1, 40), np.float32), random(rng, (40, 1), np.float32)
    for m, n in [(20, 30), (1, 5), (3, 50)]:
        check(np.broadcast_to(row, (m, 40)), random(rng, (40, n), np.float32))
        check(random(rng, (m, 40), np.float32), np.broadcast_to(column, (40, n)))
        check(np.broadcast_to(np.float32(2), (m, 40)), np.broadcast_to(np.float32(3), (40, n)))
        check(np.broadcast_to(column, (40, m)).T, np.broadcast_to(row[:, :1], (40, n)))


# ---- batches -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("short", FLOATS)
@pytest.mark.parametrize(
    "a, b",
    [
        ((7, 5, 6), (7, 6, 9)),
        ((2, 3, 4, 5), (2, 3, 5, 1)),
        ((3, 1, 4, 5), (1, 6, 5, 3)),
        ((9, 4, 5), (5, 3)),
        ((4, 5), (6, 5, 3)),
        ((5, 1, 8), (8, 3)),
        ((5, 1, 8), (5, 8, 3)),
        ((1, 2, 3), (4, 1, 3, 2)),
        ((64, 33, 32), (64, 32, 40)),
    ],
)
def test_batches(short, a, b):
    rng = np.random.default_rng(6)
    x, y = random(rng, a, FLOATS[short]), random(rng, b, FLOATS[short])
    for a_how, b_how in ["nn", "nt", "tn", "ss"]:
        check(stored(x, a_how), stored(y, b_how))


def test_batch_axes_in_any_order():
    rng = np.random.default_rng(7)
    a = random(rng, (6, 3, 2, 10), np.float32).transpose(2, 1, 0, 3)
    b = random(rng, (10, 2, 8, 3), np.float32).transpose(1, 3, 0, 2)
    check(a, b)
    check(a[::-1, :, ::2], b[::-1])


def test_rows_of_a_batch_are_merged_when_b_is_shared():
    a = SimpleNamespace(shape=(8, 128, 64), strides=(128 * 64, 64, 1))
    assert plan(a.shape, a.strides, (64, 32), (32, 1))[:8] == (1024, 32, 64, 64, 1, 32, 1, 0)
    assert plan(a.shape, a.strides, (8, 64, 32), (2048, 32, 1))[7:9] == (1, 8)


# ---- linear --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("short", FLOATS)
@pytest.mark.parametrize("m, n, k", [(1, 1, 1), (5, 10, 33), (64, 70, 40), (2, 300, 90), (130, 33, 800)])
def test_linear_adds_the_bias(short, m, n, k):
    rng = np.random.default_rng(8)
    x, w, bias = (random(rng, shape, FLOATS[short]) for shape in ((m, k), (n, k), (n,)))
    for how in "nts":
        check(stored(x, how), stored(w, how).T, bias, "linear")


# ---- gemm: all that a product may do to its result -----------------------------------------------------------------

ACT, HAS_C, HAS_BIAS_N, HAS_BIAS_M = 1, 1, 2, 4


def gemm(a, b, extra, act, alpha):
    """act(alpha a @ b + the sum of the operands in extra, which maps bits of the plan to arrays)."""
    ints = (a.shape[0], b.shape[1], a.shape[1], *strides_of(a), *strides_of(b), act, sum(extra))
    operands = [a, b, *extra.values()]
    nbytes = 4 * a.shape[0] * b.shape[1]
    run = native.bind("gemm_f32", len(operands), (nbytes,), ints, (alpha,), b"\xff" * len(operands), 1000)
    return np.frombuffer(bytes(run(*map(storage_of, operands))), np.float32).reshape(a.shape[0], b.shape[1])


@pytest.mark.parametrize(
    "m, n, k", [(1, 300, 70), (5, 10, 33), (64, 70, 1100), (130, 33, 5), (3, 4, 6000), (20, 30, 0)]
)
@pytest.mark.parametrize("has", range(8))
@pytest.mark.parametrize("act, alpha", [(0, 1.0), (ACT, -0.5)])
def test_gemm_finishes_its_sums(m, n, k, has, act, alpha):
    rng = np.random.default_rng(12)
    shapes = {HAS_C: (m, n), HAS_BIAS_N: (n,), HAS_BIAS_M: (m,)}
    extra = {bit: random(rng, shape, np.float32) for bit, shape in shapes.items() if has & bit}
    wide = {bit: x.astype(np.float64) for bit, x in extra.items()}
    wide = [x[:, None] if bit == HAS_BIAS_M else x for bit, x in wide.items()]
    for a_how, b_how in itertools.product("nt", repeat=2):
        a, b = stored(random(rng, (m, k), np.float32), a_how), stored(random(rng, (k, n), np.float32), b_how)
        a64, b64 = a.astype(np.float64), b.astype(np.float64)
        expected = alpha * (a64 @ b64) + sum(wide)
        scale = abs(alpha) * (np.abs(a64) @ np.abs(b64)) + sum(map(np.abs, wide))
        y = gemm(a, b, extra, act, alpha)
        expected = np.maximum(expected, 0) if act else expected
        assert (np.abs(y - expected) <= 4 * (max(k, 1) ** 0.5 + 2) * COMPUTE_EPS["f32"] * scale).all()


def test_relu_keeps_nan():
    a = np.float32([[1.0, np.nan], [-1.0, 0.0]])
    y = gemm(a, np.eye(2, dtype=np.float32), {}, ACT, 1.0)
    assert np.isnan(y[0]).all() and (y[1] == 0).all()


# ---- values --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("short", FLOATS)
def test_no_steps_give_zeros_or_the_bias(short):
    dtype = FLOATS[short]
    assert (product(np.zeros((3, 0), dtype), np.zeros((0, 5), dtype)) == 0).all()
    bias = np.arange(5).astype(dtype)
    assert (product(np.zeros((3, 0), dtype), np.zeros((0, 5), dtype), bias, "linear") == bias).all()


@pytest.mark.parametrize(
    "a, b", [((0, 4), (4, 5)), ((3, 4), (4, 0)), ((2, 0, 4), (2, 4, 5)), ((0, 3, 4), (0, 4, 5)), ((0, 0), (0, 0))]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int32, np.bool_])
def test_empty_results(dtype, a, b):
    assert product(np.zeros(a, dtype), np.zeros(b, dtype)).size == 0


@pytest.mark.parametrize("short", FLOATS)
@pytest.mark.parametrize("m, n, k", [(1, 3, 50), (3, 40, 70), (20, 40, 30), (70, 90, 500)])
def test_nan_and_infinity_reach_their_row_and_column(short, m, n, k):
    a, b = np.zeros((m, k), FLOATS[short]), np.ones((k, n), FLOATS[short])
    a[m - 1, k - 1] = np.nan
    b[k // 2, n - 1] = np.inf
    for a_how, b_how in itertools.product("nts", repeat=2):
        y = product(stored(a, a_how), stored(b, b_how))
        assert np.isnan(y[m - 1]).all() and np.isnan(y[:, n - 1]).all() and (y[: m - 1, : n - 1] == 0).all()
    a[:] = 1
    for a_how, b_how in itertools.product("nts", repeat=2):
        y = product(stored(a, a_how), stored(b, b_how))
        assert (y[:, n - 1] == np.inf).all() and (y[:, : n - 1] == k).all()


def test_narrow_results_are_rounded_once():
    a = np.full((1, 4096), 1, np.float16)
    b = np.full((4096, 1), 2.0**-12, np.float16)
    b[0] = 1
    assert product(a, b)[0, 0] == np.float16(1 + 4095 * 2.0**-12)


@pytest.mark.parametrize("short", INTS)
def test_integers_wrap(short):
    rng = np.random.default_rng(9)
    info = np.iinfo(INTS[short])
    for m, n, k in [(1, 1, 1), (5, 7, 3), (33, 300, 70), (70, 20, 40)]:
        a = rng.integers(info.min, info.max, (m, k), INTS[short], endpoint=True)
        b = rng.integers(info.min, info.max, (k, n), INTS[short], endpoint=True)
        for a_how, b_how in itertools.product("nts", repeat=2):
            np.testing.assert_array_equal(product(stored(a, a_how), stored(b, b_how)), a @ b)
    batch = rng.integers(info.min, info.max, (3, 2, 4, 5), INTS[short], endpoint=True)
    np.testing.assert_array_equal(product(batch, batch[:, :1].swapaxes(-1, -2)), batch @ batch[:, :1].swapaxes(-1, -2))


def test_bools_are_or_of_ands():
    rng = np.random.default_rng(10)
    a, b = rng.random((33, 40)) < 0.1, rng.random((40, 300)) < 0.1
    np.testing.assert_array_equal(product(a, b), a @ b)


# ---- threads -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("short", FLOATS)
@pytest.mark.parametrize(
    "a, b",
    [
        ((200, 300), (300, 260)),
        ((65, 2000), (2000, 70)),
        ((4, 9000), (9000, 8)),
        ((1, 800), (800, 900)),
        ((9, 70, 60), (9, 60, 50)),
    ],
)
def test_bits_do_not_depend_on_threads(short, a, b):
    rng = np.random.default_rng(11)
    x, y = random(rng, a, FLOATS[short]), random(rng, b, FLOATS[short])
    for a_how, b_how in itertools.product("nt", repeat=2):
        results = []
        for n in (1, 2, 3, 4, 7):
            with num_threads(n):
                results.append(product(stored(x, a_how), stored(y, b_how)).tobytes())
        assert len(set(results)) == 1


@pytest.mark.parametrize("short", ["f32", "f64"])
def test_only_the_payloads_of_nan_may_depend_on_threads(short):
    rng = np.random.default_rng(12)
    bits = np.dtype(f"u{np.dtype(FLOATS[short]).itemsize}")
    for m, n, k in [(150, 130, 170), (65, 70, 600), (3, 300, 200)]:
        a, b = random(rng, (m, k), FLOATS[short]), random(rng, (k, n), FLOATS[short])
        for x in (a, b):
            at = rng.choice(x.size, 5, replace=False)
            x.reshape(-1)[at] = np.nan
            x.view(bits).reshape(-1)[at] |= rng.integers(1, 1 << 20, 5).astype(bits)
        results = []
        for threads in (1, 2, 4):
            with num_threads(threads):
                results.append(np.nan_to_num(product(a, b), nan=np.inf).tobytes())
        assert len(set(results)) == 1
