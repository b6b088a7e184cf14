"""gather_nd, scatter_nd and iota against NumPy."""

from types import SimpleNamespace

import numpy as np
import pytest
from calls import (
    FLOATS,
    NAMES,
    array,
    bind,
    dtype,
    factory,
    numpy_dtype,
    on_threads,
    run,
    spec,
    storage,
)  # fmt: skip

from treadle_backend_cpu import _native as native
from treadle_backend_cpu.kernels import index as module

UFUNCS = {"add": np.add, "mul": np.multiply, "min": np.minimum, "max": np.maximum}
LOGICAL = {"add": np.logical_or, "max": np.logical_or, "mul": np.logical_and, "min": np.logical_and}


def sample(shape, name, seed=0):
    x = np.random.default_rng(seed).integers(0, 8, shape)
    return (x - (name[0] != "u") * 4).astype(numpy_dtype(name))


def indices(x, shape, k, name="int64", seed=1):
    sizes = np.array(x.shape[:k])
    return np.random.default_rng(seed).integers(-sizes, sizes, (*shape, k)).astype(name)


def at(x, i):
    sizes = np.array(x.shape[: i.shape[-1]], np.int64)
    return tuple(np.moveaxis(np.where(i < 0, i + sizes, i), -1, 0))


def gather(x, i):
    out = spec((*i.shape[:-1], *x.shape[i.shape[-1] :]), x.dtype.name)
    return on_threads(lambda: run(module, "gather_nd", [x, i], [out]))[0]


def scatter(x, i, u, mode):
    out = spec(x.shape, x.dtype.name)
    return on_threads(lambda: run(module, "scatter_nd", [x, i, u], [out], mode=mode))[0]


CASES = [
    ((5, 3), (4,), 1), ((5, 3), (2, 4), 2), ((7,), (0,), 1), ((3, 4, 5), (6,), 1),
    ((3, 4, 5), (6, 2), 2), ((4, 0), (2,), 1), ((1000,), (5000,), 1), ((60, 300), (900,), 1),
    ((9, 3), (), 1), ((2, 3), (3,), 0), ((50, 17), (400,), 1),
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("shape", "count", "k"), CASES)
def test_gather(shape, count, k, name):
    x = sample(shape, name)
    for kind in ("int64", "int32"):
        i = indices(x, count, k, kind)
        expected = x[at(x, i)] if k else np.broadcast_to(x, (*count, *shape))
        assert np.array_equal(gather(x, i), expected)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mode", ["add", "mul", "min", "max"])
@pytest.mark.parametrize(("shape", "count", "k"), [c for c in CASES if c[2]])
def test_scatter_combines_duplicates_in_order(shape, count, k, mode, name):
    x = sample(shape, name)
    i = indices(x, count, k)
    u = sample((*count, *shape[k:]), name, seed=2)
    if mode == "mul" and name in FLOATS:
        u = np.sign(u)
    expected = x.copy()
    combine = (LOGICAL if name == "bool" else UFUNCS)[mode]
    flat = [tuple(int(c) for c in row) for row in i.reshape(-1, k)]
    with np.errstate(over="ignore"):
        for row, values in zip(flat, u.reshape(len(flat), *shape[k:]), strict=True):
            expected[row] = combine(expected[row], values)
    assert np.array_equal(scatter(x, i, u, mode), expected)


@pytest.mark.parametrize("name", NAMES)
def test_scatter_sets_and_the_last_update_wins(name):
    x, i = sample((40, 300), name), np.arange(80).reshape(80, 1) % 40
    u = sample((80, 300), name, seed=3)
    assert np.array_equal(scatter(x, i, u, "set"), u[40:])


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
@pytest.mark.parametrize("width", [1, 300])
def test_scatter_adds_half_types_in_float32_and_rounds_once(width, name):
    x, i = np.ones((3, width), numpy_dtype(name)), np.array([[0], [2]] * 1000)
    u = np.full((2000, width), 2.0**-12, numpy_dtype(name))
    expected = np.ones((3, width)) + 1000 * 2.0**-12 * np.array([[1], [0], [1]])
    assert np.array_equal(scatter(x, i, u, "add"), expected.astype(numpy_dtype(name)))


@pytest.mark.parametrize("mode", ["set", "add"])
def test_scatter_may_write_over_its_first_operand(mode):
    x, i, u = sample((5, 3), "float32"), np.array([[1], [3]]), sample((2, 3), "float32", seed=4)
    kernel = bind(module, "scatter_nd", [x, i, u], [spec(x.shape, "float32")], mode=mode)
    expected, target = scatter(x, i, u, mode), storage(x.copy())
    assert kernel(target, storage(i), storage(u), target) is None
    assert np.array_equal(array(target, spec(x.shape, "float32")), expected)


@pytest.mark.parametrize("name", FLOATS)
def test_scatter_min_and_max_know_nan_and_the_sign_of_zero(name):
    kind = numpy_dtype(name)
    x = np.array([np.nan, 1, -0.0, 0.0, 1], kind)
    i, u = np.arange(5).reshape(5, 1), np.array([1, -np.nan, 0.0, -0.0, np.inf], kind)
    low, high = (scatter(x, i, u, mode).astype(np.float64) for mode in ("min", "max"))
    assert np.isnan(low[:2]).all() and np.isnan(high[:2]).all()
    assert np.signbit(low[2:4]).all() and not np.signbit(high[2:4]).any()
    assert (low[4], high[4]) == (1, np.inf)


@pytest.mark.parametrize("kind", ["int32", "int64"])
@pytest.mark.parametrize("bad", [5, -6, -(2**31)])
@pytest.mark.parametrize("place", [0, 70_000])
def test_an_index_out_of_range_is_named_before_anything_is_written(place, bad, kind):
    x, i = sample((5, 3), "float32"), np.zeros((70_001, 1), kind)
    i[place] = bad
    out = storage(np.full((70_001, 3), 7, np.float32))
    kernel = bind(module, "gather_nd", [x, i], [spec((70_001, 3), "float32")])
    text = f"index {bad} is out of range for dimension 0 of size 5"
    with pytest.raises(IndexError, match=f"gather_nd: {text}"):
        kernel(storage(x), storage(i), out)
    assert set(np.frombuffer(bytes(out), np.float32)) == {7}
    target, u = storage(x.copy()), np.ones((70_001, 3), np.float32)
    kernel = bind(module, "scatter_nd", [x, i, u], [spec(x.shape, "float32")], mode="add")
    with pytest.raises(IndexError, match=f"scatter_nd: {text}"):
        kernel(target, storage(i), storage(u), target)
    assert bytes(target) == x.tobytes()


def test_the_error_names_the_first_offender_and_its_dimension():
    x, i = sample((5, 3), "float32"), np.zeros((100_000, 2), np.int64)
    i[90_000, 0], i[40_000, 1], i[40_001, 0] = 99, 3, 98
    for threads in (1, 2, 4):
        native.set_num_threads(threads)
        with pytest.raises(IndexError, match="index 3 is out of range for dimension 1 of size 3"):
            run(module, "gather_nd", [x, i], [spec((100_000,), "float32")])
    native.set_num_threads(2)


def test_nothing_can_be_picked_from_an_empty_dimension():
    x = np.zeros((0, 3), np.float32)
    with pytest.raises(IndexError, match="size 0"):
        gather(x, np.zeros((1, 1), np.int64))
    assert gather(x, np.zeros((0, 1), np.int64)).shape == (0, 3)


# ---- iota ----------------------------------------------------------------------------------------------------------


def iota(start, step, size, name):
    out = spec((size,), name)
    call = SimpleNamespace(outs=(out,), ins=(type(start), type(step)), want=(True,))
    return array(factory(module, "iota")(None, call)(start, step), out)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("start", "step"), [(0, 1), (3, -2), (-7, 5), (200, 3), (1, 0)])
@pytest.mark.parametrize("size", [0, 1, 7, 300, 70_000])
def test_iota_of_integers(size, start, step, name):
    line = start + np.arange(size, dtype=np.int64) * step
    with np.errstate(over="ignore"):
        narrow = line.astype(np.float32) if name == "bfloat16" else line
        expected = narrow.astype(numpy_dtype(name))
    assert np.array_equal(iota(start, step, size, name), expected)


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_iota_of_floats_rounds_the_product_before_the_sum(name):
    expected = (0.1 + np.arange(100_000, dtype=np.float64) * 0.3).astype(name)
    assert np.array_equal(iota(0.1, 0.3, 100_000, name), expected)


def test_iota_of_floats_into_integers_truncates_and_saturates():
    assert iota(-1.5, 0.5, 5, "int32").tolist() == [-1, -1, 0, 0, 0]
    assert iota(0.0, 100.0, 5, "int8").tolist() == [0, 100, 127, 127, 127]
    assert iota(-10.0, 1e20, 2, "uint64").tolist() == [0, 2**64 - 1]
    assert iota(0.0, 0.5, 3, "bool").tolist() == [False, True, True]


def test_iota_wraps_in_int64():
    assert iota(2**63 - 1, 1, 2, "int64").tolist() == [2**63 - 1, -(2**63)]
    assert dtype("int64").code == module.INT64 and dtype("float64").code == module.FLOAT64
