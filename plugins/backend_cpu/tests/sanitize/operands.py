"""Random shapes, layouts, values and storages for the fuzzer; every storage has its exact size."""

import math

import numpy as np

from treadle.dtypes import ALL, FLOATS, finfo
from treadle.shapes import dense_strides, extent
from treadle.sig import dense_sig, sig_of
from treadle_backend_cpu import _native as native

SIZES = (1, 2, 3, 4, 5, 7, 8, 9, 13, 15, 16, 17, 31, 32, 33, 63, 64, 65, 67, 127, 129, 257)
BUDGETS = ((300, 3_000, 120_000), (90, 9, 1))  # elements of a tensor, and how often
POOL = 1 << 13  # elements of each stock of values
NUMBERS = {
    bool: (False, True),
    int: (
        0,
        1,
        -1,
        2,
        3,
        7,
        8,
        31,
        64,
        -64,
        127,
        -128,
        255,
        65536,
        2**31,
        -(2**31),
        2**63 - 1,
        -(2**63),
    ),
    float: (
        0.0,
        -0.0,
        1.0,
        -1.5,
        0.5,
        3.0,
        1e-310,
        5e-324,
        65504.0,
        1e39,
        -1e300,
        math.inf,
        -math.inf,
        math.nan,
    ),
}


# ---- shapes and layouts --------------------------------------------------------------------------------------------
def size(rnd, limit):
    """Return a size up to a limit: mostly one around the widths of vectors and tiles."""
    if limit <= 1 or rnd.random() < 0.2:
        return 1
    fits = [n for n in SIZES if n <= limit]
    return rnd.randint(1, limit) if rnd.random() < 0.3 else rnd.choice(fits)


def budget(rnd):
    """Return how many elements the tensors of a case may have, about."""
    return rnd.choices(*BUDGETS)[0]


def shape(rnd, low=0, high=5, limit=None, empty=0.03):
    """Return a shape of low to high dimensions within a limit of elements; rarely an empty one."""
    limit = limit or budget(rnd)
    dims = [1] * rnd.randint(low, high)
    for k in rnd.sample(range(len(dims)), len(dims)):
        dims[k] = size(rnd, limit // math.prod(dims))
    if dims and rnd.random() < empty:
        dims[rnd.randrange(len(dims))] = 0
    return tuple(dims)


def strides(rnd, dims):
    """Return strides for a shape: dense, or a mixture of permuted, spaced, repeated, reversed."""
    kind = rnd.random()
    if kind < 0.35:
        return dense_strides(dims)
    order = list(range(len(dims)))
    if kind > 0.5:
        rnd.shuffle(order)
    inner = rnd.random() < 0.4  # the last dimension stays dense, as rows of a wider tensor have it
    if inner and dims:
        order.remove(len(dims) - 1)
        order.append(len(dims) - 1)
    result, step = [0] * len(dims), 1
    for k in reversed(order):
        whole = inner and k == len(dims) - 1
        if not whole and rnd.random() < 0.12:
            continue
        step += 0 if whole or rnd.random() < 0.6 else rnd.randint(1, 3)
        result[k] = step if whole or rnd.random() < 0.85 else -step
        step *= max(dims[k], 1)
    return tuple(result)


def operand(rnd, dtype, dims, dense=False):
    """Return the sig of a tensor in a random layout."""
    if dense or rnd.random() < 0.1:
        return dense_sig(dtype, tuple(dims), None)
    return sig_of(dtype, tuple(dims), strides(rnd, dims), None)


# ---- values --------------------------------------------------------------------------------------------------------
def _edges(dtype):
    """Return the values of a type that break kernels."""
    if dtype.kind == "b":
        return np.array([False, True])
    if dtype.kind != "f":
        low, high = int(np.iinfo(dtype.np).min), int(np.iinfo(dtype.np).max)
        near = {
            0,
            1,
            2,
            3,
            high,
            high - 1,
            low,
            low + 1,
            high // 2,
            *(-k for k in (1, 2, 64) if low),
        }
        return np.array([n for n in sorted(near | {7, 8, 15, 16, 31, 32, 63, 64}) if low <= n <= high], dtype.np)
    info = finfo(dtype)
    least = float(np.nextafter(dtype.np.type(0), dtype.np.type(1)))
    edges = [
        0.0,
        np.inf,
        info.max,
        info.tiny,
        least,
        info.tiny - least,
        1.0,
        1 + info.eps,
        0.5,
        1.5,
    ]
    with np.errstate(over="ignore"):
        return np.array([np.nan, *edges, *(-e for e in edges), 20.0, -20.0, 88.0, -104.0, 1e9, 1e18]).astype(dtype.np)


def _stock(dtype):
    """Return the bytes of one type's values: ordinary numbers, edges, and any bits at all."""
    rng = np.random.default_rng(dtype.code)
    if dtype.kind == "b":
        return rng.integers(0, 2, POOL).astype(np.uint8).tobytes()
    ordinary = rng.standard_normal(POOL) * 3 if dtype.kind == "f" else rng.integers(0, 9, POOL)
    values = ordinary.astype(dtype.np)
    runs = np.arange(POOL) // 512 % 4  # stretches of one kind, so that some operands are all ordinary
    edge = rng.random(POOL) < 0.5
    bits = np.frombuffer(rng.bytes(POOL * dtype.itemsize), dtype.np)
    values = np.where((runs == 1) & edge, rng.choice(_edges(dtype), POOL), values)
    values = np.where((runs == 2) & edge, bits, values)
    return np.where(runs == 3, rng.choice(_edges(dtype), POOL), values).astype(dtype.np).tobytes()


STOCK = {dtype: _stock(dtype) for dtype in ALL}


def values(rnd, dtype, count):
    """Return the bytes of count elements, any of a type's values among them."""
    stock, item = STOCK[dtype], dtype.itemsize
    start = rnd.randrange(POOL)
    part = stock[start * item : (start + count) * item]
    while len(part) < count * item:
        part += stock[: count * item - len(part)]
    return part


def number(rnd, kind):
    """Return a Python number of a type."""
    return rnd.choice(NUMBERS[kind])


RAW = np.random.default_rng(1).integers(0, 2**62, POOL)  # what indices are drawn from


class Indices:
    """What an operand of indices holds: each in [low, high) of its column, or now and then outside.

    sizes: one per column of tuples. wraps: negative ones count from the end. spare: one more value
    that is allowed everywhere."""

    def __init__(self, *sizes, wraps=False, spare=None, outside=0.1):
        self.sizes, self.wraps, self.spare, self.outside = sizes, wraps, spare, outside

    def fill(self, rnd, dtype, count):
        """Return (bytes, whether one of the indices is out of range)."""
        if not self.sizes or not count:
            return bytes(count * dtype.itemsize), False
        limits = np.resize(np.array(self.sizes, np.int64), count)
        raw = np.take(RAW, np.arange(count) + rnd.randrange(POOL), mode="wrap")
        made = raw % np.maximum(limits, 1)
        if self.wraps:
            made -= limits * (raw >> 40 & 1)
        spared = (raw >> 20) % 10 == 0 if self.spare is not None else np.zeros(count, bool)
        made[spared] = self.spare or 0
        bad = bool(np.any((limits == 0) & ~(spared | (made == self.spare))))
        if rnd.random() < self.outside:
            k = rnd.randrange(count)
            made[k] = self._outside(rnd, int(limits[k]), dtype)
            bad = bad or made[k] != self.spare
        return made.astype(dtype.np).tobytes(), bad

    def _outside(self, rnd, n, dtype):
        info = np.iinfo(dtype.np)
        below = -n - 1 if self.wraps else -1
        return rnd.choice((n, n + 1, below, below - 7, int(info.max), int(info.min), 2**31 - 1))


# ---- storages ------------------------------------------------------------------------------------------------------
def storage(rnd, nbytes, itemsize=1):
    """Return an exact storage of uninitialised bytes: native, wrapped, or the end of a longer one.

    Wrapped memory has a red zone on both sides; the third kind starts at odd addresses."""
    kind = rnd.random()
    if kind < 0.4:
        return native.alloc(nbytes)
    if kind < 0.8:
        return native.wrap(np.empty(nbytes, np.uint8))
    lead = rnd.randint(1, 15) * itemsize
    return native.wrap(np.empty(nbytes + lead, np.uint8)).view(lead)


def filled(rnd, sig, fill=None):
    """Return (a storage at a sig's first element, whether it holds an index out of range)."""
    low, high = extent(sig.shape, sig.strides)
    data, bad = fill.fill(rnd, sig.dtype, high - low) if fill else (values(rnd, sig.dtype, high - low), False)
    made = storage(rnd, len(data), sig.dtype.itemsize)
    memoryview(made)[:] = data
    return (made.view(-low * sig.dtype.itemsize) if low else made), bad


FLOAT_ORDER = sorted(FLOATS, key=lambda d: d.code)
