"""Indexing and order: gather_nd, scatter_nd, sort; and iota."""

from math import prod

from treadle.runtime.backend import kernel
from treadle_backend_cpu import _native as native
from treadle_backend_cpu.kernels.common import ALL, numel, out_bytes, work

MODES = {"set": 0, "add": 1, "mul": 2, "min": 3, "max": 4}
INT64, FLOAT64 = 4, 12  # dtype codes of the numbers that iota is given


def _tuples(x, i):
    """Return (indices are int64, count, k, sizes) of the index tuples i (..., k) into x."""
    k = i.shape[-1]
    return (int(i.dtype.itemsize == 8), prod(i.shape[:-1]), k, *x.shape[:k])


@kernel("gather_nd", dtypes=ALL, layouts="dense")
def gather_nd(backend, call):
    """Bind a gather of rows."""
    x, i = call.ins
    row = prod(x.shape[i.shape[-1] :]) * x.dtype.itemsize
    ints = (row, *_tuples(x, i))
    nbytes = 2 * numel(call.outs[0].shape) * x.dtype.itemsize + numel(i.shape) * i.dtype.itemsize
    return native.bind("gather_nd", 2, out_bytes(call), ints, (), b"\xff\xff", work(nbytes))


@kernel("scatter_nd", dtypes=ALL, layouts="dense")
def scatter_nd(backend, call):
    """Bind a copy with rows set or combined."""
    x, i, u = call.ins
    mode, row = MODES[call.attrs["mode"]], prod(x.shape[i.shape[-1] :])
    ints = (mode, x.dtype.code, row, numel(x.shape), *_tuples(x, i))
    moved = (2 * numel(x.shape) + 3 * numel(u.shape)) * x.dtype.itemsize
    nbytes = moved + numel(i.shape) * i.dtype.itemsize
    return native.bind("scatter_nd", 3, out_bytes(call), ints, (), b"\xff\xff\xff", work(nbytes))


@kernel("sort", dtypes=ALL, layouts="dense")
def sort(backend, call):
    """Bind a stable sort along the last axis."""
    x = call.ins[0]
    n = x.shape[-1] if x.shape else 1
    ints = (x.dtype.code, int(call.attrs["descending"]), prod(x.shape[:-1]), n)
    nanoseconds = numel(x.shape) * (4 + n.bit_length())
    return native.bind("sort", 1, out_bytes(call), ints, (), b"\xff", nanoseconds)


@kernel("iota", dtypes=ALL, layouts="dense")
def iota(backend, call):
    """Bind start + i * step: in int64 where everything is an integer, else in double."""
    y = call.outs[0]
    whole = y.dtype.kind in "biu" and all(x in (int, bool) for x in call.ins)
    ints = (numel(y.shape), y.dtype.code, int(whole))
    codes = bytes([INT64 if whole else FLOAT64] * 2)
    nanoseconds = work(numel(y.shape) * y.dtype.itemsize)
    return native.bind("iota", 2, out_bytes(call), ints, (), codes, nanoseconds)
