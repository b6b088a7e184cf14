"""sum, prod, max, min, argmax, argmin and cumsum on every layout against NumPy."""

import numpy as np
import pytest
from calls import FLOATS, NAMES, array, bind, numpy_dtype, on_threads, run, spec, storage

from treadle_backend_cpu.kernels import reduce as module

NUMPY = {"sum": np.sum, "prod": np.prod, "max": np.max, "min": np.min}
EPS = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}
TINY = {"float16": 1e-7, "bfloat16": 0, "float32": 0, "float64": 0}  # a denormal's last place
ACCUMULATED = {**EPS, "float16": 2.0**-24, "bfloat16": 2.0**-24}
NAN, INF = np.nan, np.inf

SHAPES = [
    ((), ()), ((1,), (0,)), ((7,), (0,)), ((1, 1), (0, 1)), ((5, 1, 3), (1,)), ((300, 3), (1,)),
    ((3000, 3), (0,)), ((3, 3000), (0,)), ((37, 65), (0,)), ((37, 65), (1,)), ((37, 65), (0, 1)),
    ((6, 50, 7), (1,)), ((6, 50, 7), (0, 2)), ((2, 3, 4, 5, 2, 3), (1, 3, 5)),
    ((2, 3, 4, 5, 2, 3), (0, 2, 4)), ((40, 2, 5000), (0, 2)), ((200_003,), (0,)),
    ((100_000, 2), (0,)), ((2, 100_000), (1,)), ((260, 1100), (0,)), ((4, 5), ()), ((0, 3), (1,)),
]  # fmt: skip


def sample(shape, name, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape) if name in FLOATS else rng.integers(-100, 100, shape)
    return np.asarray(np.abs(x) if name[0] == "u" else x).astype(numpy_dtype(name))


def layouts(x):
    """The same numbers in row-major, reversed, transposed and broadcast layouts."""
    yield x
    if x.ndim:
        yield np.flip(np.ascontiguousarray(np.flip(x)))
        yield np.ascontiguousarray(x.T).T
        yield np.repeat(x, 2, -1)[..., ::2]
        yield np.broadcast_to(x[:1], x.shape)


def reduced(shape, axes, keepdims=False):
    kept = (1 if k in axes else n for k, n in enumerate(shape) if keepdims or k not in axes)
    return tuple(kept)


def reduce(op, x, axes):
    out = spec(reduced(x.shape, axes), x.dtype.name)
    return on_threads(lambda: run(module, op, [x], [out], axes=axes, keepdims=False))[0]


def check(op, got, x, axes):
    name = x.dtype.name
    if name not in FLOATS:
        kwargs = {"dtype": x.dtype} if op in ("sum", "prod") else {}
        assert np.array_equal(got, NUMPY[op](x, axis=axes, **kwargs))
        return
    # NumPy's own float64 sums are no better than ours.
    x, got = x.astype(np.longdouble), got.astype(np.longdouble)
    expected = NUMPY[op](x, axis=axes)
    error = {"max": 0, "min": 0}.get(op)
    if op == "sum":
        error = EPS[name] * np.abs(expected) + 4 * ACCUMULATED[name] * np.abs(x).sum(axis=axes)
        error = error + TINY[name]
    if op == "prod":
        error = (EPS[name] + ACCUMULATED[name] * x.size) * np.abs(expected)
    assert np.all(np.abs(got - expected) <= error)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "bool"])
@pytest.mark.parametrize(("shape", "axes"), SHAPES)
def test_sum(shape, axes, name):
    for x in layouts(sample(shape, name)):
        check("sum", reduce("sum", x, axes), x, axes)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("op", ["max", "min"])
@pytest.mark.parametrize(("shape", "axes"), [s for s in SHAPES if 0 not in s[0]])
def test_max_and_min(shape, axes, op, name):
    for x in layouts(sample(shape, name)):
        check(op, reduce(op, x, axes), x, axes)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "bool"])
@pytest.mark.parametrize(("shape", "axes"), [
    ((37, 65), (0,)), ((37, 65), (1,)), ((3, 4, 5), (0, 2)), ((0, 2), (0,)),
])  # fmt: skip
def test_prod(shape, axes, name):
    x = sample(shape, name)
    x = (1 + x / 100).astype(x.dtype) if name in FLOATS else x
    for y in layouts(x):
        check("prod", reduce("prod", y, axes), y, axes)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "bool"])
def test_empty_sum_is_zero_and_empty_product_one(name):
    x = np.zeros((3, 0, 2), numpy_dtype(name))
    assert np.array_equal(reduce("sum", x, (1,)), np.zeros((3, 2)))
    assert np.array_equal(reduce("prod", x, (1,)), np.ones((3, 2)))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("name", FLOATS)
def test_max_and_min_propagate_nan_of_either_sign(name, axis):
    x = np.array([[1, NAN, INF, -1], [2, 3, -NAN, -INF], [4, 5, 6, 7]], numpy_dtype(name))
    x = x if axis else np.ascontiguousarray(x.T)
    for op in ("max", "min"):
        got = reduce(op, x, (axis,)).astype(np.float64)
        assert np.isnan(got[:2]).all() and got[2] == (7 if op == "max" else 4)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("name", FLOATS)
def test_min_picks_the_negative_zero_and_max_the_positive(name, axis):
    x = np.array([[0.0, -0.0], [-0.0, 0.0], [-0.0, -0.0]], numpy_dtype(name))
    x = x if axis else np.ascontiguousarray(x.T)
    assert np.signbit(reduce("min", x, (axis,)).astype(np.float32)).tolist() == [True, True, True]
    assert np.signbit(reduce("max", x, (axis,)).astype(np.float32)).tolist() == [False, False, True]


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)])
def test_infinities_and_overflow(axes):
    x = np.full((70, 70), 3e38, np.float32)
    assert np.isposinf(reduce("sum", x, axes)).all()
    x[3, 4] = -INF
    x[3, 5] = INF
    assert np.isnan(reduce("sum", x, (0, 1)))


def test_bool_max_and_min_are_any_and_all():
    x = np.array([[0, 0, 0], [0, 1, 0], [1, 1, 1]], bool)
    assert reduce("max", x, (1,)).tolist() == [False, True, True]
    assert reduce("min", x, (1,)).tolist() == [False, False, True]


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)])
def test_long_float32_sums_are_as_exact_as_pairwise_ones(axes):
    x = np.full((1024, 1024), 0.1, np.float32)
    expected = x.astype(np.float64).sum(axes)
    assert np.abs(reduce("sum", x, axes) / expected - 1).max() < 3e-7


def test_half_sums_accumulate_in_float32():
    x = np.full((70_000,), 0.25, np.float16)
    assert reduce("sum", x, (0,)) == np.float16(17_500)


def test_keepdims_changes_nothing_but_the_shape():
    x = sample((4, 5), "float32")
    got = run(module, "sum", [x], [spec((4, 1), "float32")], axes=(1,), keepdims=True)
    assert np.array_equal(got[:, 0], reduce("sum", x, (1,)))


# ---- argmax, argmin ------------------------------------------------------------------------------------------------

ARG_SHAPES = [
    ((7,), 0), ((1, 1), 1), ((5, 300), 1), ((5, 300), 0), ((300, 5), 1), ((4, 50, 6), 1),
    ((3, 70, 300), 1), ((200_000,), 0), ((50_000, 3), 0), ((3, 50_000), 1), ((2, 3, 4, 5), 2),
    ((0, 3), 1),
]  # fmt: skip


def arg(op, x, axis):
    out = spec(reduced(x.shape, (axis,)), "int64")
    return on_threads(lambda: run(module, op, [x], [out], axis=axis, keepdims=False))[0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("shape", "axis"), ARG_SHAPES)
@pytest.mark.parametrize("op", ["argmax", "argmin"])
def test_argmax_and_argmin_find_the_first(op, shape, axis, name):
    for x in layouts((sample(shape, name) / 20).astype(numpy_dtype(name))):
        expected = getattr(np, op)(x.astype(np.float64) if name in FLOATS else x, axis)
        assert np.array_equal(arg(op, x, axis), expected)


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("op", ["argmax", "argmin"])
def test_nan_wins_and_zeros_are_equal(op, name):
    rows = [[1, INF, NAN, NAN], [1, -INF, 2, -NAN], [-0.0, 0.0, 0.0, -0.0], [0.0, -0.0, 0.0, 0.0]]
    x = np.array(rows, numpy_dtype(name))
    for y in (x, np.ascontiguousarray(x.T).T):
        assert arg(op, y, 1).tolist() == [2, 3, 0, 0]


def test_extremes_of_integers_are_found():
    for name in ("int8", "int32", "int64", "uint8", "uint32", "uint64"):
        low, high = np.iinfo(name).min, np.iinfo(name).max
        x = np.array([[low, low], [high, low], [low, high], [high, high]], name)
        assert arg("argmax", x, 1).tolist() == [0, 0, 1, 0]
        assert arg("argmin", x, 1).tolist() == [0, 1, 0, 0]


# ---- cumsum --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in NAMES if n != "bool"])
@pytest.mark.parametrize(("shape", "axis"), [
    ((7,), 0), ((4, 5), 0), ((4, 5), 1), ((3, 50, 300), 1), ((600, 70), 1), ((0, 3), 0), ((1,), 0),
])  # fmt: skip
def test_cumsum(shape, axis, name):
    x = sample(shape, name)
    (got,) = on_threads(lambda: run(module, "cumsum", [x], [spec(shape, name)], axis=axis))
    if name in FLOATS:
        sums = np.cumsum(x.astype(np.float64), axis)
        error = EPS[name] * np.abs(sums) * 1.001 + TINY[name]
        assert np.all(np.abs(got.astype(np.float64) - sums) <= error)
    else:
        assert np.array_equal(got, np.cumsum(x, axis, dtype=x.dtype))


def test_results_may_be_written_into_given_storage():
    x = sample((6, 7), "float32")
    kernel = bind(module, "sum", [x], [spec((6,), "float32")], axes=(1,), keepdims=False)
    out = storage(np.zeros(6, np.float32))
    assert kernel(storage(x), out) is None
    assert np.allclose(array(out, spec((6,), "float32")), x.sum(1), atol=1e-5)
