"""Stable sort of values and indices."""

import numpy as np
import pytest
from calls import FLOATS, NAMES, numpy_dtype, on_threads, run, spec

from treadle_backend_cpu.kernels import index as module


def sort(x, descending=False):
    outs = [spec(x.shape, x.dtype.name), spec(x.shape, "int64")]
    return on_threads(lambda: run(module, "sort", [x], outs, descending=descending))


def order(x, descending):
    """The definition: a stable argsort of ranks, NaN above everything."""
    if x.dtype.name in FLOATS:
        wide = x.astype(np.float64)
        keys = np.where(np.isnan(wide), np.inf, wide)
        nan = np.isnan(wide)
        return np.lexsort((-keys if descending else keys, ~nan if descending else nan), axis=-1)
    ranks = np.unique(x, return_inverse=True)[1].reshape(x.shape)
    return np.argsort(-ranks if descending else ranks, axis=-1, kind="stable")


def sample(shape, name, distinct=None):
    rng = np.random.default_rng(0)
    if name in FLOATS:
        few = None if distinct is None else rng.integers(-distinct, distinct, shape) / 4
        x = rng.standard_normal(shape) if few is None else few
        return x.astype(numpy_dtype(name))
    high = distinct or {"bool": 2, "int8": 128, "uint8": 256}.get(name, 10_000)
    low = 0 if name == "bool" or name[0] == "u" else -high
    return rng.integers(low, high, shape).astype(numpy_dtype(name))


SHAPES = [
    (1,), (2,), (17,), (3, 100), (5, 191), (5, 192), (4, 511), (4, 513), (2, 3, 700), (200_000,),
    (300, 33), (0, 3), (3, 0), (),
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("descending", [False, True])
def test_sort(shape, descending, name):
    for distinct in (None, 2):
        x = sample(shape, name, distinct if name != "bool" else None)
        values, at = sort(x, descending)
        expected = order(x, descending) if x.size and x.ndim else np.zeros(x.shape, np.int64)
        assert np.array_equal(at, expected)
        assert values.tobytes() == (np.take_along_axis(x, expected, -1) if x.ndim else x).tobytes()


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("n", [12, 1200, 120_000])
def test_nan_is_last_or_first_and_zeros_keep_their_order_and_sign(n, name):
    some = [np.nan, 0.0, -0.0, np.inf, -np.inf, -np.nan, 1, -1, -0.0, 0.0]
    x = np.resize(np.array(some, numpy_dtype(name)), n)
    for descending in (False, True):
        values, at = sort(x, descending)
        assert np.array_equal(at, order(x, descending))
        assert values.tobytes() == x[at].tobytes()


def test_either_result_may_be_unwanted():
    x = sample((3, 50), "float32")
    both = sort(x)
    outs = [spec(x.shape, "float32"), spec(x.shape, "int64")]
    for want, k in (((True, False), 0), ((False, True), 1)):
        got = run(module, "sort", [x], outs, want=want, descending=False)
        assert np.array_equal(got[k], both[k]) and got[1 - k] is None


@pytest.mark.parametrize("name", ["int8", "uint8", "int64", "uint64", "int32", "uint32"])
def test_extremes(name):
    low, high = np.iinfo(name).min, np.iinfo(name).max
    x = np.array([high, low, 1, high, low], name)
    assert sort(x)[1].tolist() == [1, 4, 2, 0, 3]
    assert sort(x, True)[1].tolist() == [0, 3, 2, 1, 4]


@pytest.mark.parametrize("n", [65_536, 131_073])
def test_already_sorted_and_reversed_rows(n):
    up = np.arange(n, dtype=np.int64)
    assert np.array_equal(sort(up)[1], up) and np.array_equal(sort(up[::-1].copy())[1], up[::-1])
