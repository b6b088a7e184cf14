"""Reductions: sum, prod, max, min over any axes; argmax, argmin and cumsum along one."""

from treadle.runtime.backend import kernel
from treadle_backend_cpu import _native as native
from treadle_backend_cpu.kernels.common import ALL, NUMBERS, numel, out_bytes, split_axis, work

OPS = {"sum": 0, "prod": 1, "max": 2, "min": 3}
FOLD_TO = 2048  # rows of few columns are laid side by side until they are about this wide
NARROW = 128  # a small input is worth it only below this many columns


def _reach(dim):
    """Sort key, descending: a stride of 0 counts as the farthest: nothing is near in memory."""
    return -dim[1] if dim[1] else float("-inf")


def _merge(dims):
    """Sort (size, input stride, output stride) from far to near; merge what has one stride."""
    merged = []
    for size, xs, ys in sorted(dims, key=_reach):
        outer = merged[-1] if merged else None
        if outer and outer[1:] == (xs * size, ys * size):
            merged[-1] = (outer[0] * size, xs, ys)
        else:
            merged.append((size, xs, ys))
    return merged or [(1, 0, 0)]


def _dims(shape, strides, axes):
    """Split the dimensions into kept and reduced ones, all with input strides >= 0.

    Returns both lists, then the offsets of the first element in input and output."""
    kept, reduced, y_offset, x_offset, step = [], [], 0, 0, 1
    for axis in reversed(range(len(shape))):
        size, xs, ys = shape[axis], strides[axis], 0 if axis in axes else step
        step *= 1 if axis in axes else size
        if size == 1:
            continue
        if xs < 0:
            x_offset, y_offset = x_offset + (size - 1) * xs, y_offset + (size - 1) * ys
            xs, ys = -xs, -ys
        (reduced if axis in axes else kept).append((size, xs, ys))
    return kept, reduced, x_offset, y_offset


def reduce_ints(op, dtype, shape, strides, axes):
    """Return the parameters of the C kernel `reduce` (see reduce.c) for a strided input."""
    kept, reduced, x_offset, y_offset = _dims(shape, strides, axes)
    kept, reduced = _merge(kept), _merge(reduced)
    (width, near, _), (rows, far, _) = kept[-1], reduced[-1]
    columns = near > 0 and (near < far or far == 0)
    dense, large = near == 1 and far == width, rows * width > FOLD_TO * NARROW
    side_by_side = columns and dense and (width < NARROW or large)
    fold = max(1, min(rows // 8, FOLD_TO // max(width, 1))) if side_by_side else 1
    flat = [number for dim in (*kept, *reduced) for number in dim]
    head = (OPS[op], dtype.code, int(columns), fold, x_offset, y_offset, len(kept), len(reduced))
    return (*head, *flat)


def _reduce(backend, call):
    x = call.ins[0]
    ints = reduce_ints(call.op.name, x.dtype, x.shape, x.strides, call.attrs["axes"])
    nanoseconds = work(numel(x.shape) * x.dtype.itemsize)
    return native.bind("reduce", 1, out_bytes(call), ints, (), b"\xff", nanoseconds)


for _name in ("sum", "prod"):
    kernel(_name, dtypes=NUMBERS, layouts="strided")(_reduce)
for _name in ("max", "min"):
    kernel(_name, dtypes=ALL, layouts="strided")(_reduce)


SHORT_AXIS = 32  # below this, rows are searched side by side however far apart their elements are


def argreduce_ints(op, dtype, shape, strides, axis):
    """Return the parameters of the C kernel `argreduce` (see argreduce.c) for a strided input."""
    axis %= len(shape)
    n, stride = shape[axis], strides[axis]
    others = [k for k in range(len(shape)) if k != axis]
    dims, _, *offsets = _dims([shape[k] for k in others], [strides[k] for k in others], ())
    dims = _merge(dims)
    width, near, _ = dims[-1]
    columns = width > 1 and (0 < near < abs(stride) or (n < SHORT_AXIS and width >= SHORT_AXIS))
    flat = [number for dim in dims for number in dim]
    return (dtype.code, int(op == "argmin"), n, stride, *offsets, int(columns), len(dims), *flat)


def _argreduce(backend, call):
    x = call.ins[0]
    shape, strides = x.shape or (1,), x.strides or (1,)
    ints = argreduce_ints(call.op.name, x.dtype, shape, strides, call.attrs["axis"])
    nanoseconds = work(numel(shape) * x.dtype.itemsize)
    return native.bind("argreduce", 1, out_bytes(call), ints, (), b"\xff", nanoseconds)


for _name in ("argmax", "argmin"):
    kernel(_name, dtypes=ALL, layouts="strided")(_argreduce)


@kernel("cumsum", dtypes=NUMBERS, layouts="dense")
def cumsum(backend, call):
    """Bind running sums along one axis."""
    x = call.ins[0]
    ints = (x.dtype.code, *split_axis(x.shape or (1,), call.attrs["axis"]))
    nanoseconds = work(0, numel(x.shape) * 16)
    return native.bind("cumsum", 1, out_bytes(call), ints, (), b"\xff", nanoseconds)
