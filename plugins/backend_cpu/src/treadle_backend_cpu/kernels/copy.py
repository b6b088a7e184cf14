"""Copies: cast, bitcast, and the backend's copy_strided."""

from treadle.runtime.backend import kernel
from treadle_backend_cpu import _native as native
from treadle_backend_cpu.kernels.common import collapse, dense_strides, numel, out_bytes, work
from treadle_backend_cpu.kernels.elementwise import elementwise_ints

TASK_BYTES = 1 << 16  # what a task of a copy moves, about
LINE = 64  # bytes of a cache line: transposed blocks are so wide and so high
STREAM_BYTES = 32 << 20  # larger results bypass the caches;
STREAM_LINES = 8 << 20  # transposed ones gain earlier, if they come in whole cache lines
MAX_BOUND = 1024  # layouts whose copy kernels are kept


@kernel("cast", layouts="strided")
def cast(backend, call):
    """Bind the cast between two dtypes; the same dtype is a copy."""
    (x,), (y,) = call.ins, call.outs
    if x.dtype is y.dtype:
        dense = dense_strides(x.shape)
        return _bind(out_bytes(call)[0], copy_ints(x.dtype.itemsize, x.shape, dense, x.strides))
    cost = work(numel(x.shape) * (x.dtype.itemsize + y.dtype.itemsize))
    ints = elementwise_ints(x.shape, [x.strides])
    return native.bind(f"cast_{x.dtype.short}_{y.dtype.short}", 1, out_bytes(call), ints, (), b"\xff", cost)


@kernel("bitcast", layouts="dense")
def bitcast(backend, call):
    """Bind the copy of all bytes; where the dtypes' sizes differ, so do the last dimensions."""
    nbytes = out_bytes(call)[0]
    return native.bind("copy_dense", 1, (nbytes,), (nbytes,), (), b"\xff", work(2 * nbytes))


def _order(shape, dst, src):
    """Merge dimensions and order them for copy.c.

    The destination's nearest one comes last, of the others the source's nearest before it."""
    shape, dst, src = collapse(*_sorted(shape, dst, src))
    dims = list(zip(shape, dst, src, strict=True))
    if len(dims) > 2:
        nearest = min(range(len(dims) - 1), key=lambda d: (dims[d][2] == 0, abs(dims[d][2])))
        dims.insert(len(dims) - 2, dims.pop(nearest))
    return [(1, 0, 0)] * (2 - len(dims)) + dims


def _sorted(shape, dst, src):
    """Sort dimensions by the destination's strides, the nearest last; sizes of 1 go."""
    dims = [dim for dim in zip(shape, dst, src, strict=True) if dim[0] != 1]
    dims.sort(key=lambda dim: (-abs(dim[1]), -abs(dim[2])))
    return tuple(zip(*dims, strict=True)) if dims else ((), (), ())


def _is_transposed(dims):
    (_, _, src_row), (_, dst_col, src_col) = dims[-2:]
    return dst_col == 1 and src_row == 1 and src_col != 1


def copy_ints(itemsize, shape, dst, src):
    """Return (kernel, its parameters, bytes moved) for a copy between two layouts of a shape."""
    nbytes = numel(shape) * itemsize
    dims = _order(shape, dst, src)
    flat = len(dims) == 2 and dims[0][0] == 1 and dims[1][1:] == (1, 1)
    if flat or nbytes == 0:
        return "copy_dense", (nbytes,), nbytes
    row_bytes = dims[-1][0] * itemsize
    cols = min(dims[-1][0], TASK_BYTES // itemsize)
    rows = TASK_BYTES // (cols * itemsize)
    stream = nbytes >= STREAM_BYTES and row_bytes >= 16 * LINE
    if _is_transposed(dims):
        rows = max(rows // (LINE // itemsize), 1) * (LINE // itemsize)
        whole = all(stride * itemsize % LINE == 0 for _, stride, _ in dims[:-1])
        stream = nbytes >= STREAM_LINES and whole
    shape, dst, src = zip(*dims, strict=True)
    return (
        "copy_strided",
        (itemsize, len(dims), int(stream), rows, cols, *shape, *dst, *src),
        nbytes,
    )


def _bind(out, copy):
    name, ints, nbytes = copy
    return native.bind(name, 1, (out,), ints, (), b"\xff", work(2 * nbytes))


def _reach(shape, strides):
    """Return how many elements a layout spans from its first one forwards."""
    if 0 in shape:
        return 0
    return 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True) if s > 0)


_BOUND = {}


def copy_strided(dst, dst_shape, dst_strides, src, src_strides, itemsize):
    """Copy elements of one shape between two layouts that do not overlap; strides in elements.

    A source's stride may be 0 or negative, a destination's negative. Raises ValueError where the
    destination's storage is too small."""
    bound_copy(dst_shape, dst_strides, src_strides, itemsize)(src, dst)


def bound_copy(dst_shape, dst_strides, src_strides, itemsize):
    """Return the kernel `run(src, dst)` of a copy; up to 1024 pairs of layouts keep theirs."""
    key = (dst_shape, dst_strides, src_strides, itemsize)
    run = _BOUND.get(key)
    if run is None:
        nbytes = _reach(dst_shape, dst_strides) * itemsize
        run = _bind(nbytes, copy_ints(itemsize, dst_shape, dst_strides, src_strides))
        if len(_BOUND) >= MAX_BOUND:
            _BOUND.clear()
        _BOUND[key] = run
    return run
